"""`calibrate`: find the schedule that keeps the most quality within a budget, on the user's own samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.pipeline.console import Console
from vitcop.pipeline.partial import write_text
from vitcop.pipeline.recipe_values import parse_budget
from vitcop.pipeline.search_settings import search_settings
from vitcop.pipeline.workspace import Workspace
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.calibration import CalibrationSettings
    from vitcop.calibrate.checkpoint import Checkpoint
    from vitcop.calibrate.samples import Sample
    from vitcop.calibrate.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search whose inputs have been opened and checked."""

    checkpoint: "Checkpoint"
    calibration_samples: "list[Sample]"
    selection_samples: "list[Sample]"
    budget: float
    seed: int = 0
    settings: "CalibrationSettings"

    def run(
        self, *, schedule_out: Path | None, calibration_out: Path | None, store: Path | None, console: Console
    ) -> "Schedule":
        """Search; write schedule.json and calibration.json where places for them are given.

        `store` holds finished measurements, so that an interrupted search goes on where it was.
        """
        from vitcop.calibrate.search import calibrate

        with console.progress() as progress:
            result = calibrate(
                self.checkpoint,
                self.calibration_samples,
                self.selection_samples,
                budget=self.budget,
                seed=self.seed,
                settings=self.settings,
                progress=progress,
                store=store,
            )
        if calibration_out is not None:
            write_text(calibration_out, result.to_json())
        if schedule_out is not None:
            write_text(schedule_out, result.schedule.to_json())
        return result.schedule


def open_search(
    model: str | Path,
    calibration: str | Path,
    selection: str | Path,
    *,
    budget: float | str,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    calibration_limit: int | None = None,
    selection_limit: int | None = None,
) -> Search:
    """Open and check all inputs of a search. Raises InputError for a wrong model, sample, budget or setting."""
    from vitcop.calibrate.checkpoint import Checkpoint
    from vitcop.calibrate.samples import load_samples

    try:
        share = parse_budget(budget)
    except ValueError as error:
        raise InputError(f"budget: {error}") from None
    return Search(
        checkpoint=Checkpoint.open(model),
        calibration_samples=load_samples(calibration, limit=calibration_limit),
        selection_samples=load_samples(selection, limit=selection_limit),
        budget=share,
        seed=seed,
        settings=search_settings(settings),
    )


def calibrate(
    model: str | Path,
    calibration: str | Path,
    selection: str | Path,
    *,
    budget: float | str,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    calibration_limit: int | None = None,
    selection_limit: int | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> "Schedule":
    """Search for the schedule of a model.

    Args:
        model: folder of the checkpoint.
        calibration, selection: sample files; statistics come from the first, the candidates compete on the second.
        budget: mean share of visual tokens over all decoder layers, in (0, 1]: 0.25 or "1/4".
        seed: of everything random.
        settings: of the search, by name.
        calibration_limit, selection_limit: use only so many samples from the front.
        out: folder for schedule.json, calibration.json and what resumes a search; nothing is written where None.

    Raises InputError for anything wrong with model, samples, budget, settings or `out`.
    """
    console = console or Console(quiet=True)
    workspace = Workspace(out) if out is not None else None
    if workspace is not None:
        workspace.check()
    limits = {"calibration_limit": calibration_limit, "selection_limit": selection_limit}
    search = open_search(model, calibration, selection, budget=budget, seed=seed, settings=settings, **limits)
    if workspace is None:
        return search.run(schedule_out=None, calibration_out=None, store=None, console=console)
    with workspace.locked():
        return search.run(
            schedule_out=workspace.out / "schedule.json",
            calibration_out=workspace.out / "calibration.json",
            store=workspace.private / "calibrate",
            console=console,
        )
