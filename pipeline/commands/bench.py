"""`vitcop bench`."""

import json
from typing import Any

import click

from vitcop.pipeline.commands.options import (
    PATH,
    attention_option,
    engine_options,
    json_option,
    out_option,
    settings_options,
    taken,
    target_options,
)
from vitcop.pipeline.settings import BenchSettings
from vitcop.plugins.errors import InputError


@click.command(name="bench", short_help="Time the engine, pruned and unpruned.")
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.jsonl", help="Samples whose prompts are timed.")
@target_options
@click.option(
    "--model", type=PATH, metavar="MODEL_DIR", help="The checkpoint; the one that the bundle names where left out."
)
@click.option(
    "--unpruned",
    "against",
    type=PATH,
    metavar="BUNDLE",
    help="A bundle of the same model without dropping, to compare with.",
)
@settings_options(BenchSettings, without=("enabled", "unpruned"))
@attention_option
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
    device: str | None,
    extra: tuple[str, ...],
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
    if cost_out is not None:
        from vitcop.pipeline.steps.cost_table import cost_table, trial_table

        if out is not None:
            raise InputError("--cost-table writes cost.json alone: leave out -o, or run bench once more without it")
        kept = {name: given[name] for name in ("target", "model", "against", "batch_size", "repeats", "warmup")}
        options = engine_options(device, extra)
        table = cost_table(bundle, data, cost_out, options=options, trials=trials, seed=seed, console=console, **kept)
        console.result(json.loads(table.to_json()), trial_table(table))
        return
    from vitcop.pipeline.steps.bench import bench, bench_table

    found = bench(
        bundle,
        data,
        taken(BenchSettings, given),
        options=engine_options(device, extra),
        device=device or "cpu",
        out=out,
        console=console,
        **given,
    )
    console.result(found.to_dict(), bench_table(found))
