"""`vitcop build`."""

import click

from vitcop.pipeline.commands.options import PATH, engine_options, json_option, target_options


@click.command(name="build", short_help="Build the engine of a bundle.")
@click.argument("bundle", type=PATH)
@target_options
@json_option()
def command(bundle: str, target: str, device: str | None, extra: tuple[str, ...], as_json: bool) -> None:
    """Build the engine of a BUNDLE for a runtime, below BUNDLE/engines."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.build import build, engine_facts

    console = Console(as_json=as_json)
    engine = build(bundle, target=target, options=engine_options(device, extra), console=console)
    facts = engine_facts(engine) | {"path": str(engine.path), "reused": engine.reused, "reason": engine.reason}
    console.result(facts, f"engine: {engine.path}")
