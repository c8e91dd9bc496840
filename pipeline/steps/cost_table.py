"""`bench --cost-table`: time probes on a target, for schedules that are chosen by measured time."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.console import Console
from vitcop.pipeline.inspection import table
from vitcop.pipeline.preflight import open_bundle
from vitcop.pipeline.settings import EngineSettings

if TYPE_CHECKING:
    from vitcop.calibrate.schedule.latency import CostTable


def cost_table(
    bundle: str | Path,
    data: str | Path,
    out: str | Path,
    engine: EngineSettings | None = None,
    *,
    against: str | Path | None = None,
    batch_size: int = 1,
    trials: int = 4,
    repeats: int = 10,
    warmup: int = 2,
    seed: int = 0,
    console: Console | None = None,
) -> "CostTable":
    """Write cost.json: coefficients from which the time of any schedule of this model on this target is forecast.

    Args:
        bundle: any bundle of the model; its own schedule does not matter.
        data: samples; the first ones make the prompt that is timed.
        out: where cost.json is written.
        engine: of its model probes are exported.
        against: a bundle of the same model without dropping, which saves one export.
        batch_size: prompts of one batch.
        trials: schedules that are timed and not fitted on, which tell the forecast's error.
        repeats, warmup: timed turns, and those before them that do not count.
        seed: of the trials and of the order in which prompts are timed.

    Raises InputError for anything wrong with bundle or samples.
    """
    from vitcop.calibrate.data.samples import load_samples
    from vitcop.export.runtimes import open_target

    console, engine = console or Console(quiet=True), engine or EngineSettings()
    opened = open_bundle(bundle, console)
    plain = open_bundle(against, console) if against is not None else None
    open_target(engine.target)
    samples = load_samples(data, limit=batch_size)

    from vitcop.export.measure.cost_table import measure_cost_table

    with console.progress() as progress:
        found = measure_cost_table(
            opened,
            samples,
            target=engine.target,
            options=engine.options,
            model_dir=engine.model,
            unpruned=plain,
            batch_size=batch_size,
            trials=trials,
            repeats=repeats,
            warmup=warmup,
            seed=seed,
            progress=progress,
        )
    write_text(Path(out), found.to_json())
    return found


def trial_table(found: "CostTable") -> str:
    """Forecast against measurement of each schedule that was not fitted on, as lines of text."""
    rows: list[tuple[str, ...]] = [("schedule", "ms", "forecast", "error")]
    for trial in found.trials:
        times = [f"{1000 * seconds:.2f}" for seconds in (trial.measured, trial.forecast)]
        rows.append((trial.schedule, *times, f"{100 * trial.error:.1f} %"))
    median, worst = found.median_error, found.worst_error
    if median is None or worst is None:
        return "no trials: the error of the forecast is not known"
    low, high = found.interval(1.0)
    return "\n".join(
        [
            *table(rows),
            f"error of the forecast: median {100 * median:.1f} %, worst {100 * worst:.1f} %",
            f"measured / forecast from {low:.3f} to {high:.3f}; a new schedule lies within with probability "
            f"{found.coverage:.2f}",
        ]
    )
