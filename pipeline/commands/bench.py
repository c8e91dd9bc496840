"""`vitcop bench`."""

import json

import click

from vitcop.pipeline.commands.options import (
    PATH,
    attention_option,
    batch_size_option,
    engine_options,
    json_option,
    out_option,
    target_options,
)
from vitcop.plugins.errors import InputError


@click.command(name="bench", short_help="Time the engine, pruned and unpruned.")
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.jsonl", help="Samples whose prompts are timed.")
@target_options
@click.option(
    "--model", type=PATH, metavar="MODEL_DIR", help="The checkpoint; the one that the bundle names where left out."
)
@click.option(
    "--unpruned", type=PATH, metavar="BUNDLE", help="A bundle of the same model without dropping, to compare with."
)
@click.option("--compare-torch/--no-compare-torch", default=True, show_default=True, help="Also time PyTorch.")
@batch_size_option(1)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Tokens decoded after each prefill.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Timed repetitions.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=2, show_default=True, help="Repetitions that are not counted."
)
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
    **settings,
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
        kept = {name: settings[name] for name in ("target", "model", "unpruned", "batch_size", "repeats", "warmup")}
        options = engine_options(device, extra)
        table = cost_table(bundle, data, cost_out, options=options, trials=trials, seed=seed, console=console, **kept)
        console.result(json.loads(table.to_json()), trial_table(table))
        return
    from vitcop.pipeline.steps.bench import bench, bench_table

    found = bench(
        bundle,
        data,
        options=engine_options(device, extra),
        device=device or "cpu",
        out=out,
        console=console,
        **settings,
    )
    console.result(found.to_dict(), bench_table(found))
