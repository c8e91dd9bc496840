"""`calibrate`: find the schedule that keeps the most quality within a constraint, on the user's own samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.console import Console
from vitcop.pipeline.settings import SearchSettings
from vitcop.pipeline.workspace import Workspace
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample
    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.schedule.latency import CostTable
    from vitcop.calibrate.schedule.schedule import Schedule
    from vitcop.calibrate.search.calibration import Calibration
    from vitcop.calibrate.work.shards import PartialTable, Shard


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search whose inputs have been opened and checked."""

    checkpoint: "Checkpoint"
    calibration_samples: "list[Sample]"
    selection_samples: "list[Sample]"
    settings: SearchSettings
    cost_table: "CostTable | None" = None

    def run(
        self,
        *,
        schedule_out: Path | None,
        calibration_out: Path | None,
        store: Path | None,
        console: Console,
        merged: "PartialTable | None" = None,
    ) -> "Schedule":
        """Search; write schedule.json and calibration.json where places for them are given.

        Args:
            store: of finished measurements, so that an interrupted search goes on where it was.
            merged: what all shards found, in place of measuring the table.
        """
        from vitcop.calibrate.search.calibrating import calibrate

        self._tell(console)
        result = self._skipping(
            calibrate,
            console,
            constraint=self.settings.constraint,
            store=store,
            cost_table=self.cost_table,
            limits=self.settings.limits,
            merged=merged,
        )
        if calibration_out is not None:
            write_text(calibration_out, result.to_json())
        if schedule_out is not None:
            write_text(schedule_out, result.schedule.to_json())
        _tell_verdict(result, console)
        return result.schedule

    def run_shard(self, shard: "Shard", *, out: Path, store: Path | None, console: Console) -> Path:
        """Measure one shard of the sensitivity table and write its partial table into `out`; returns the file."""
        from vitcop.calibrate.search.calibrating import measure_shard

        table = self._skipping(measure_shard, console, shard=shard, store=store)
        path = out / shard.file_name
        table.save(path)
        return path

    def _skipping(self, search: Callable[..., Any], console: Console, **arguments: Any) -> Any:
        """Run a search; with `skip_bad` once more without the samples that the original cannot answer."""
        from vitcop.calibrate.work.measuring import BadSamplesError

        sets = {"calibration": self.calibration_samples, "selection": self.selection_samples}
        while True:
            try:
                with console.progress() as progress:
                    return search(self.checkpoint, *sets.values(), progress=progress, **arguments, **self._settings)
            except BadSamplesError as error:
                kept = [sample for sample in sets[error.name] if sample.id not in error.bad]
                if not (self.settings.skip_bad and kept):
                    raise
                sets[error.name] = kept
                for reason in error.bad.values():
                    console.note(f"left out: {reason}")

    @property
    def _settings(self) -> dict[str, Any]:
        from vitcop.calibrate.work.executors.opening import open_executor

        settings, search = self.settings, self.settings.search
        opened = partial(open_executor, settings.executor, num_workers=settings.workers, device=search.device)
        return {"seed": settings.seed, "settings": search, "open_executor": opened}

    def _tell(self, console: Console) -> None:
        if not any(sample.answers for sample in (*self.calibration_samples, *self.selection_samples)):
            console.note(
                "no sample has an answer: schedules are compared with what the original itself answers, and no task "
                "score is measured"
            )


def _tell_verdict(result: "Calibration", console: Console) -> None:
    """Who is surely better than the chosen schedule, where anybody is."""
    better = [item for item in result.comparisons if item.measure == "kl" and item.verdict == "better"]
    for item in better:
        console.note(
            f"{item.name} loses less than the chosen schedule on the selection samples (KL {item.difference:+.4f}, "
            f"95 % {item.low:+.4f} to {item.high:+.4f}); see calibration.json"
        )


def open_search(
    model: str | Path,
    calibration: str | Path,
    selection: str | Path,
    settings: SearchSettings | None = None,
    *,
    console: Console | None = None,
) -> Search:
    """Open and check all inputs of a search.

    Raises InputError for a wrong model, sample or cost table, MissingError where this machine lacks what the settings
    ask for.
    """
    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.loading import check_placement
    from vitcop.calibrate.schedule.latency import CostTable

    settings = settings or SearchSettings()
    checkpoint = Checkpoint.open(model)
    if settings.executor == "local":  # Ray's workers may have what this machine lacks.
        check_placement(settings.search.device, settings.search.dtype, settings.search.attn)
    return Search(
        checkpoint=checkpoint,
        calibration_samples=_samples(calibration, settings.calibration_limit, settings.skip_bad, console),
        selection_samples=_samples(selection, settings.selection_limit, settings.skip_bad, console),
        settings=settings,
        cost_table=None if settings.cost is None else CostTable.load(settings.cost),
    )


def _samples(path: str | Path, limit: int | None, skip_bad: bool, console: Console | None) -> "list[Sample]":
    from vitcop.calibrate.data.samples import load_samples

    bad: list[str] = []
    samples = load_samples(path, limit=limit, bad=bad if skip_bad else None)
    for reason in bad:
        if console is not None:
            console.note(f"left out: {reason}")
    return samples


def calibrate(
    model: str | Path,
    calibration: str | Path,
    selection: str | Path,
    settings: SearchSettings | None = None,
    *,
    out: str | Path | None = None,
    shard: str | None = None,
    merged: Sequence[str | Path] = (),
    console: Console | None = None,
) -> "Schedule | Path":
    """Search for the schedule of a model.

    Args:
        model: folder of the checkpoint.
        calibration, selection: sample files; everything is searched on the first, the last few compete on the second.
        out: folder for schedule.json, calibration.json and what resumes a search; nothing is written where None.
        shard: "i/n": measure this share of the sensitivity table alone and write it into `out`.
        merged: partial tables of shards, or folders of them, in place of measuring the table.

    Returns the schedule, or the file of the shard. Raises InputError for anything wrong with model, samples,
    constraint, settings or `out`, MissingError where this machine lacks what the settings ask for.
    """
    console = console or Console(quiet=True)
    if shard is not None and (out is None or merged):
        raise InputError(f"shard {shard}: needs a folder to write into, and nothing to merge")
    workspace = Workspace(out) if out is not None else None
    if workspace is not None:
        workspace.check()
    chosen, table = _shards(shard, merged)
    opened = open_search(model, calibration, selection, settings, console=console)
    if workspace is None:
        return opened.run(schedule_out=None, calibration_out=None, store=None, console=console, merged=table)
    with workspace.locked():
        store = workspace.private / "calibrate"
        if chosen is not None:
            return opened.run_shard(chosen, out=workspace.out, store=store, console=console)
        return opened.run(
            schedule_out=workspace.out / "schedule.json",
            calibration_out=workspace.out / "calibration.json",
            store=store,
            console=console,
            merged=table,
        )


def _shards(shard: str | None, merged: Sequence[str | Path]) -> "tuple[Shard | None, PartialTable | None]":
    """The shard to run, and what the others found. Raises InputError where one of them is missing."""
    from vitcop.calibrate.work.shards import PartialTable, Shard, merge, partial_files

    table = merge(PartialTable.load(path) for path in partial_files(merged)) if merged else None
    if table is not None:
        table.check_complete()
    return None if shard is None else Shard.parse(shard), table
