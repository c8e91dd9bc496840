"""`report`: one page that tells what a run measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.console import Console
from vitcop.plugins.errors import InputError


def report(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    target: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    overlays: int = 6,
    title: str = "",
    out: str | Path | None = None,
    console: Console | None = None,
) -> Path:
    """Write report.html from bundle/, calibration.json, verify.json and bench.json; what is missing is said in it.

    Args:
        folder: the output folder of a run.
        data: evaluation samples to show with their kept patches; none are shown where None.
        limit: of the samples, as in `verify`.
        target, options: the runtime that runs them, and its options.
        overlays: how many of them.
        title: heading; the model's name where empty.
        out: where the page is written; `report.html` in the folder where None.

    Raises InputError where the folder holds no bundle, or a result file cannot be read or belongs to another bundle.
    """
    from vitcop.export.bundle import Bundle, schedule_hash
    from vitcop.pipeline.reporting.collect import collect, read_results

    folder = Path(folder)
    console = console or Console(quiet=True)
    bundle = Bundle.open(folder / "bundle", check_weights="none")
    results = read_results(folder)
    expected = schedule_hash(bundle.schedule)
    for part in ("verify", "bench"):
        found = (results[part] or {}).get("bundle", {}).get("schedule_hash", expected)
        if found != expected:
            raise InputError(
                f"{folder / (part + '.json')}: measured with another schedule than that of {bundle.path}; "
                f"run `vitcop {part}` again"
            )

    pictures: dict[str, Any] = {"overlay_note": _why_none(data, overlays)}
    if not pictures["overlay_note"]:
        from vitcop.calibrate.data.samples import load_samples
        from vitcop.export.runtimes import open_target
        from vitcop.pipeline.reporting.pictures import choose, draw_overlays

        chosen = choose(load_samples(str(data), limit=limit), overlays)
        rows = {row["id"]: row for row in (results["verify"] or {}).get("rows", ())}
        console.note(f"report: drawing {len(chosen)} samples")
        runner = open_target(target).runner(bundle, dict(options or {}))
        pictures["overlays"] = draw_overlays(bundle, chosen, runner, rows)

    from vitcop.pipeline.reporting.page import render

    place = Path(out) if out is not None else folder / "report.html"
    try:
        page = render(collect(bundle, results, title=title, **pictures))
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder}: a result file lacks what the report needs ({type(error).__name__}: {error}); make it again"
        ) from error
    write_text(place, page)
    return place


def _why_none(data: str | Path | None, overlays: int) -> str:
    """What the page says in place of the overlays; empty where there are some."""
    if overlays == 0:
        return "None were asked for."
    return "" if data is not None else "No samples were given (--data)."
