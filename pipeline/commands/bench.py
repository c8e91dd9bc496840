"""`vitcop bench`."""

import json
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
from vitcop.pipeline.settings import BenchSettings
from vitcop.plugins.errors import InputError


@click.command(name="bench", short_help="Time the engine, pruned and unpruned.")
@click.argument("bundle", type=PATH)
@measured_options
@click.option(
    "--unpruned",
    "against",
    type=PATH,
    metavar="BUNDLE",
    help="A bundle of the same model without dropping, to compare with.",
)
@settings_options(BenchSettings, without=("enabled", "unpruned"))
@click.option(
    "--cost-table",
    "cost_out",
    type=PATH,
    metavar="cost.json",
    help="Instead, time probes of the model and write what forecasts the time of any schedule.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="With --cost-table: schedules that are timed and not fitted on, to tell the forecast's error.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With --cost-table: of the trials and of the order in which prompts are timed.",
)
@out_option("Where bench.json is written.", required=False)
@json_option()
def command(
    bundle: str,
    data: str,
    against: str | None,
    out: str | None,
    cost_out: str | None,
    trials: int,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Time the engine of a BUNDLE, pruned and unpruned, part by part.

    With --cost-table, times a small set of probes of its model instead: minutes, most of them exports.
    """
    from vitcop.pipeline.console import Console

    console = Console(as_json=as_json)
    engine, settings = measured_engine(given), taken(BenchSettings, given)
    if cost_out is not None:
        from vitcop.pipeline.steps.cost_table import cost_table, trial_table

        if out is not None:
            raise InputError("--cost-table writes cost.json alone: leave out -o, or run bench once more without it")
        turns = {"batch_size": settings.batch_size, "repeats": settings.repeats, "warmup": settings.warmup}
        table = cost_table(
            bundle, data, cost_out, engine, against=against, trials=trials, seed=seed, console=console, **turns
        )
        console.result(json.loads(table.to_json()), trial_table(table))
        return
    from vitcop.pipeline.steps.bench import bench, bench_table

    found = bench(bundle, data, settings, engine, against=against, out=out, console=console)
    console.result(found.to_dict(), bench_table(found))
