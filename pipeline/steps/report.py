"""`report`: one page that tells what a run measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.settings import ReportSettings
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.export.bundle import Bundle


def report(
    folder: str | Path,
    settings: ReportSettings | None = None,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
) -> Path:
    """Write report.html from bundle/, calibration.json, verify.json and bench.json; what is missing is said in it.

    Args:
        folder: the output folder of a run.
        data: the samples that were verified, to show with their kept patches; none are shown where None.
        out: where the page is written; `report.html` in the folder where None.

    No model and no engine runs: the page follows from the files alone. Raises InputError where the folder holds no
    bundle, a result file cannot be read or belongs to another bundle, or the samples are not those of verify.json.
    """
    from vitcop.export.bundle import Bundle, schedule_hash
    from vitcop.pipeline.reporting.collect import collect, read_results

    folder, settings = Path(folder), settings or ReportSettings()
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

    from vitcop.pipeline.reporting.page import render

    try:
        pictures = _pictures(bundle, data, results["verify"], settings.overlays)
        page = render(collect(bundle, results, title=settings.title, **pictures))
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{folder}: a result file lacks what the report needs ({type(error).__name__}: {error}); make it again"
        ) from error
    place = Path(out) if out is not None else folder / "report.html"
    write_text(place, page)
    return place


def _pictures(bundle: "Bundle", data: str | Path | None, verify: Mapping[str, Any] | None, num: int) -> dict[str, Any]:
    """The overlays, or what the page says in place of them."""
    from vitcop.calibrate.data.samples import load_samples, samples_digest
    from vitcop.pipeline.reporting.pictures import draw_overlays

    if num == 0:
        return {"overlay_note": "None were asked for."}
    if data is None:
        return {"overlay_note": "No samples were given (--data)."}
    if verify is None:
        return {"overlay_note": "The bundle was not verified, so it is not known which patches were kept."}
    if "kept" not in verify:
        return {"overlay_note": "verify.json is of an older version and does not tell which patches were kept."}
    samples = load_samples(data, limit=verify["samples"]["count"])
    if samples_digest(samples) != verify["samples"]["digest"]:
        raise InputError(f"{data}: not the samples of verify.json; give those, or run `vitcop verify` again")
    overlays = draw_overlays(bundle, samples, verify, num)
    return {"overlays": overlays, "overlay_note": "No sample is one picture whose cells are the visual tokens."}
