"""`vitcop verify`."""

from typing import Any

import click

from vitcop.pipeline.commands.options import (
    PATH,
    json_option,
    measured_engine,
    measured_options,
    out_option,
    settings_options,
    taken,
)
from vitcop.pipeline.settings import VerifySettings


@click.command(name="verify", short_help="Compare the engine with the PyTorch original.")
@click.argument("bundle", type=PATH)
@measured_options
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="NAME=LIMIT",
    help="A limit that differs from its default, or off; may be repeated.",
)
@settings_options(VerifySettings)
@out_option("Where verify.json is written.", required=False)
@json_option()
def command(
    bundle: str,
    data: str,
    gates: tuple[str, ...],
    out: str | None,
    as_json: bool,
    **given: Any,
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
    console = Console(as_json=as_json)
    engine, settings = measured_engine(given), taken(VerifySettings, given, gates=limits)
    found = verify(bundle, data, settings, engine, out=out, console=console)
    verdict = "PASSED" if found.passed else "FAILED"
    console.result(found.to_dict(), f"{gate_table(found.gates)}\n{verdict}")
    if not found.passed:
        raise GateError(found.summary())
