"""`vitcop calibrate`."""

import click

from vitcop.pipeline.commands.options import PATH, attention_option, json_option, out_option


@click.command(name="calibrate", short_help="Find the best schedule within a budget.")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option(
    "--calibration", type=PATH, required=True, metavar="FILE.jsonl", help="Samples that the statistics come from."
)
@click.option(
    "--selection", type=PATH, required=True, metavar="FILE.jsonl", help="Other samples, on which the schedules compete."
)
@click.option(
    "--budget",
    default="1/3",
    show_default=True,
    help="Mean share of visual tokens over all decoder layers: 1/3 or 0.33.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first so many samples of each file.")
@attention_option
@out_option("Folder for schedule.json and calibration.json.")
@json_option()
def command(
    model: str,
    calibration: str,
    selection: str,
    budget: str,
    seed: int,
    limit: int | None,
    attn: str,
    out: str,
    as_json: bool,
) -> None:
    """Find the schedule that keeps the most quality within a budget.

    An interrupted search goes on where it was.
    """
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.inspection import inspect_schedule
    from vitcop.pipeline.steps.calibrate import calibrate

    console = Console(as_json=as_json)
    limits = {"calibration_limit": limit, "selection_limit": limit}
    settings = {"attn": attn}
    schedule = calibrate(
        model, calibration, selection, budget=budget, seed=seed, settings=settings, **limits, out=out, console=console
    )
    found = inspect_schedule(schedule, model=model)
    console.result(found.facts, found.text)
