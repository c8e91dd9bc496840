"""`vitcop calibrate`."""

from pathlib import Path
from typing import Any

import click

from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.pipeline.commands.options import (
    PATH,
    json_option,
    out_option,
    settings_options,
    shard_options,
    taken,
)
from vitcop.pipeline.settings import SearchSettings
from vitcop.plugins.errors import InputError


@click.command(name="calibrate", short_help="Find the best schedule within a constraint.")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option("--calibration", type=PATH, required=True, metavar="FILE.jsonl", help="Samples to search on.")
@click.option(
    "--selection", type=PATH, required=True, metavar="FILE.jsonl", help="Other samples, on which the best few compete."
)
@settings_options(SearchSettings, without=("schedule",))
@click.option(
    "--subset-limit",
    multiple=True,
    metavar="SUBSET=DROP",
    help="Lose at most so much task score on a subset: counting=0.02 is two points. May be repeated.",
)
@settings_options(CalibrationSettings)
@shard_options
@out_option("Folder for schedule.json and calibration.json.")
@json_option()
def command(
    model: str,
    calibration: str,
    selection: str,
    subset_limit: tuple[str, ...],
    shard: str | None,
    merged: tuple[str, ...],
    out: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the schedule that keeps the most quality within a constraint: a budget, FLOPs, KV bytes, milliseconds, or
    a greatest loss.

    An interrupted search goes on where it was.
    """
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.inspection import inspect_schedule
    from vitcop.pipeline.steps.calibrate import calibrate

    console = Console(as_json=as_json)
    search = taken(CalibrationSettings, given)
    settings = taken(SearchSettings, given, search=search, subset_limits=_limits(subset_limit))
    found = calibrate(
        model, calibration, selection, settings, shard=shard, merged=merged, out=out, console=console, **given
    )
    if isinstance(found, Path):
        console.result({"partial": str(found)}, str(found))
        return
    shown = inspect_schedule(found, model=model)
    console.result(shown.facts, shown.text)


def _limits(given: tuple[str, ...]) -> dict[str, Any]:
    limits = {}
    for item in given:
        subset, _, most = item.rpartition("=")
        try:
            limits[subset] = float(most)
        except ValueError:
            subset = ""
        if not subset:
            raise InputError(f"--subset-limit {item!r}: expected SUBSET=DROP, such as counting=0.02")
    return limits
