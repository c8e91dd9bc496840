"""`bench`: measure where the time and the memory go, pruned against unpruned."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.console import Console, dump_json
from vitcop.pipeline.inspection import table
from vitcop.pipeline.preflight import open_bundle
from vitcop.pipeline.settings import BenchSettings, EngineSettings

if TYPE_CHECKING:
    from vitcop.export.measure import Bench


def bench(
    bundle: str | Path,
    data: str | Path,
    settings: BenchSettings | None = None,
    engine: EngineSettings | None = None,
    *,
    against: str | Path | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> "Bench":
    """Time vision tower, selector, prefill and decode of the engine and of the unpruned model.

    Args:
        bundle: the bundle's folder.
        data: samples whose prompts are timed.
        against: a bundle of the same model without dropping, to compare with.
        out: where bench.json is written, if anywhere.

    Raises InputError for anything wrong with bundle or samples.
    """
    from vitcop.calibrate.data.samples import load_samples
    from vitcop.export.runtimes import open_target

    console, settings, engine = console or Console(quiet=True), settings or BenchSettings(), engine or EngineSettings()
    opened = open_bundle(bundle, console)
    unpruned = open_bundle(against, console) if against is not None else None
    open_target(engine.target)
    samples = load_samples(data, limit=settings.batch_size)

    from vitcop.export.measure import bench as measure

    with console.progress() as progress:
        found = measure(
            opened,
            samples,
            target=engine.target,
            options=engine.options,
            model_dir=engine.model,
            unpruned=unpruned,
            compare_torch=settings.compare_torch,
            device=engine.device,
            attn=engine.attn,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            repeats=settings.repeats,
            warmup=settings.warmup,
            progress=progress,
        )
    if out is not None:
        write_text(Path(out), dump_json(found.to_dict()) + "\n")
    return found


def bench_table(found: "Bench") -> str:
    """Median milliseconds of each part as lines of text, how much slower than the engine each other rung is, and in
    which float type it computed."""
    parts = ("vision", "prefill", "decode_per_token", "selector", "total")
    rows = [("ms (median)", *(part.replace("_", " ") for part in parts), "total / engine", "dtype")]
    for name, rung in found.rungs.items():
        times = [rung["seconds"].get(part) for part in parts]
        ratio = found.ratios.get(name, {}).get("total")
        # A rung that cannot tell a part (the original's vision tower runs inside its forward) has no time for it.
        cells = [f"{1000 * time['median']:.2f}" if time and time["median"] else "–" for time in times]
        rows.append((name.replace("_", " "), *cells, f"{ratio:.2f}×" if ratio else "", rung["dtype"]))
    return "\n".join([*table(rows), *found.notes])
