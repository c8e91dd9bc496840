"""`vitcop build`."""

import click

from vitcop.pipeline.commands.options import PATH, engine_options, json_option, target_options


@click.command(name="build", short_help="Build the engine of a bundle.")
@click.argument("bundle", type=PATH)
@target_options
@click.option("--max-batch", type=click.IntRange(min=1), help="Most prompts of one batch (tensorrt).")
@click.option("--fp16", is_flag=True, help="Answered with what to say instead (tensorrt).")
@click.option(
    "--dry-run", is_flag=True, help="Say what a build would meet, and build nothing (tensorrt, tensorrt-llm)."
)
@json_option()
def command(
    bundle: str,
    target: str,
    device: str | None,
    extra: tuple[str, ...],
    max_batch: int | None,
    fp16: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the engine of a BUNDLE for a runtime, below BUNDLE/engines."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.build import build, engine_facts, plan_build
    from vitcop.plugins.errors import InputError

    console = Console(as_json=as_json)
    options = engine_options(device, extra)
    options |= {"max_batch": max_batch} if max_batch is not None else {}
    options |= {"fp16": True} if fp16 else {}
    if dry_run:
        plan = plan_build(bundle, target=target, options=options)
        console.result(plan.to_dict(), plan.text())
        if not plan.passed:
            raise InputError(f"{bundle}: target {target} cannot take every node; they are listed above")
        return
    engine = build(bundle, target=target, options=options, console=console)
    facts = engine_facts(engine) | {"path": str(engine.path), "reused": engine.reused, "reason": engine.reason}
    console.result(facts, f"engine: {engine.path}")
