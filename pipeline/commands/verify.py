"""`vitcop verify`."""

import click

from vitcop.pipeline.commands.options import (
    PATH,
    attention_option,
    batch_size_option,
    engine_options,
    json_option,
    metric_option,
    out_option,
    target_options,
)


@click.command(name="verify", short_help="Compare the engine with the PyTorch original.")
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.jsonl", help="Evaluation samples.")
@target_options
@click.option("--baseline", type=PATH, metavar="verify.json", help="An earlier result that must not get worse.")
@click.option(
    "--model", type=PATH, metavar="MODEL_DIR", help="The checkpoint; the one that the bundle names where left out."
)
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first so many samples.")
@batch_size_option(8)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Longest answer, in tokens."
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="NAME=LIMIT",
    help="A limit that differs from its default, or off; may be repeated.",
)
@metric_option
@click.option(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Also measure random and uniform at the same budget.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the bootstrap and of the control `random`.",
)
@attention_option
@out_option("Where verify.json is written.", required=False)
@json_option()
def command(
    bundle: str,
    data: str,
    device: str | None,
    extra: tuple[str, ...],
    gates: tuple[str, ...],
    out: str | None,
    as_json: bool,
    **settings,
) -> None:
    """Compare the engine of a BUNDLE with the PyTorch original and with pruned PyTorch.

    The last line is PASSED or FAILED; exit status 3 where a gate failed.
    """
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.verify import gate_table, verify
    from vitcop.plugins.errors import GateError, InputError

    limits: dict[str, float | None] = {}
    for item in gates:
        name, _, value = item.partition("=")
        try:
            limits[name] = None if value == "off" else float(value)
        except ValueError:
            raise InputError(f"--gate {item!r}: expected NAME=LIMIT with a number, or NAME=off") from None
    console, options = Console(as_json=as_json), engine_options(device, extra)
    found = verify(
        bundle, data, options=options, device=device or "cpu", gates=limits, out=out, console=console, **settings
    )
    verdict = "PASSED" if found.passed else "FAILED"
    console.result(found.to_dict(), f"{gate_table(found.gates)}\n{verdict}")
    if not found.passed:
        raise GateError(found.summary())
