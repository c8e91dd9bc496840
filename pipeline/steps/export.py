"""`export`: rewrite the model's graph for a schedule and write the bundle."""

from pathlib import Path

from vitcop.pipeline.console import Console
from vitcop.pipeline.preflight import load_schedule


def export(
    model: str | Path,
    schedule: str | Path,
    out: str | Path,
    *,
    copy_weights: bool = False,
    console: Console | None = None,
) -> Path:
    """Write a bundle: ONNX graphs that drop visual tokens, weights by reference or copied, the processor's files.

    Args:
        model: folder of the checkpoint.
        schedule: a schedule file, or a preset name (paper-1/3, paper-2/9, paper-1/9, none).
        out: the bundle's folder; new, empty, or a bundle to be replaced.
        copy_weights: make the bundle self-contained.

    Raises InputError where the schedule belongs to another model, or `out` is something else.
    """
    from vitcop.calibrate.models.checkpoint import Checkpoint

    console = console or Console(quiet=True)
    checkpoint = Checkpoint.open(model)
    chosen = load_schedule(schedule, checkpoint)
    check_destination(Path(out))

    from vitcop.export.compile import export_bundle

    with console.progress() as progress:
        return export_bundle(
            Path(model), chosen, Path(out), copy_weights=copy_weights, progress=progress, source=str(schedule)
        )


def check_destination(out: Path) -> None:
    """Raises InputError, before any work, where `out` is neither free nor a bundle."""
    from vitcop.export.bundle.writer import check_destination as check

    check(out)
