"""`vitcop calibrate`."""

from typing import Any

import click

from vitcop.pipeline.commands.options import (
    PATH,
    batch_size_option,
    executor_options,
    json_option,
    metric_option,
    model_options,
    out_option,
    shard_options,
)
from vitcop.plugins.errors import InputError


@click.command(name="calibrate", short_help="Find the best schedule within a constraint.")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option("--calibration", type=PATH, required=True, metavar="FILE.jsonl", help="Samples to search on.")
@click.option(
    "--selection", type=PATH, required=True, metavar="FILE.jsonl", help="Other samples, on which the best few compete."
)
@click.option(
    "--budget", help="Mean share of visual tokens over all decoder layers: 1/3 (the default) or 0.33.  [one of five]"
)
@click.option("--flops", type=float, help="Most FLOPs of a prefill, by formula.  [one of five]")
@click.option("--kv-bytes", type=float, help="Most bytes of its KV cache, by formula.  [one of five]")
@click.option("--latency-ms", type=float, help="Most milliseconds of a prefill on the target of --cost.  [one of five]")
@click.option("--max-loss", type=float, help="Most KL to the original in nats; costs are made least.  [one of five]")
@click.option("--cost", type=PATH, metavar="cost.json", help="Measured times, from `vitcop bench --cost-table`.")
@click.option(
    "--subset-limit",
    multiple=True,
    metavar="SUBSET=DROP",
    help="Lose at most so much task score on a subset: counting=0.02 is two points. May be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first so many samples of each file.")
@click.option("--skip-bad", is_flag=True, help="Leave out samples that cannot be read or answered, and name them.")
@metric_option
@batch_size_option(16)
@model_options
@executor_options
@shard_options
@out_option("Folder for schedule.json and calibration.json.")
@json_option()
def command(
    model: str,
    calibration: str,
    selection: str,
    budget: str | None,
    flops: float | None,
    kv_bytes: float | None,
    latency_ms: float | None,
    max_loss: float | None,
    cost: str | None,
    subset_limit: tuple[str, ...],
    seed: int,
    limit: int | None,
    skip_bad: bool,
    metric: str,
    batch_size: int,
    device: str,
    dtype: str,
    attn: str,
    executor: str,
    workers: int | None,
    shard: str | None,
    merged: tuple[str, ...],
    out: str,
    as_json: bool,
) -> None:
    """Find the schedule that keeps the most quality within a constraint: a budget, FLOPs, KV bytes, milliseconds, or
    a greatest loss.

    An interrupted search goes on where it was.
    """
    from vitcop.calibrate.evaluate.settings import CalibrationSettings
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.inspection import inspect_schedule
    from vitcop.pipeline.steps.calibrate import Workers, calibrate

    console = Console(as_json=as_json)
    found = calibrate(
        model,
        calibration,
        selection,
        budget=budget,
        limits_to={"flops": flops, "kv_bytes": kv_bytes, "latency_ms": latency_ms, "max_loss": max_loss},
        cost=cost,
        subset_limits=_limits(subset_limit),
        seed=seed,
        settings=CalibrationSettings(metric=metric, batch_size=batch_size, device=device, dtype=dtype, attn=attn),
        calibration_limit=limit,
        selection_limit=limit,
        skip_bad=skip_bad,
        workers=Workers(executor=executor, count=workers),
        shard=shard,
        merged=merged,
        out=out,
        console=console,
    )
    if shard is not None:
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
