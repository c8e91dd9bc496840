"""What a worker of a calibration does: it holds the model and the sample parts, and measures units.

| kind | content | result |
|---|---|---|
| targets | part | num: samples of the part whose answers of the original are now in the store |
| losses | schedule, part, answers | ids, kl, top1, exact, as in `Losses` |
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vitcop.calibrate.calibration import CalibrationSettings
from vitcop.calibrate.checkpoint import Checkpoint
from vitcop.calibrate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.executors.base import Json
from vitcop.calibrate.loading import load_model
from vitcop.calibrate.sample_json import samples_from_json
from vitcop.calibrate.samples import Sample, digested
from vitcop.calibrate.schedule import Schedule
from vitcop.calibrate.store import Store
from vitcop.calibrate.torch_threads import torch_threads
from vitcop.calibrate.versions import versions
from vitcop.calibrate.work import StoredPerformer, unit
from vitcop.plugins.errors import InputError


def targets_unit(base: Any, part: str) -> Json:
    """Let the original answer a part, given by its digest."""
    return unit("targets", base, part=part)


def losses_unit(base: Any, schedule: Schedule, part: str, *, answers: bool = False) -> Json:
    """Measure a schedule on a part, given by its digest; `answers` as in `Evaluator.measure`."""
    plain = json.loads(replace(schedule, provenance={}, model_id="", config_hash="").to_json())
    return unit("losses", base, schedule=plain, part=part, answers=answers)


def losses_of(result: Json) -> Losses:
    """The result of a losses unit."""
    return Losses(**{name: tuple(result[name]) for name in ("ids", "kl", "top1", "exact")})


class CalibrationPerformer:
    """Performs the units of one job. Sample parts are prepared at the first unit that names them, and kept."""

    def __init__(self, evaluator: Evaluator, parts: dict[str, list[Sample]], threads: int) -> None:
        self.evaluator = evaluator
        self._samples, self._threads = parts, threads
        self._parts: dict[str, Part] = {}

    def perform(self, unit: Json) -> Json:
        with torch_threads(self._threads):
            return _KINDS[unit["kind"]](self, unit)

    def part(self, digest: str) -> Part:
        """A part by its digest. Raises InputError where the files of a sample do not hold what they held."""
        if digest not in self._parts:
            for sample in self._samples[digest]:
                if digested(sample).digest != sample.digest:
                    raise InputError(
                        f"sample {sample.id}: its images are not what they were when this run began, or another "
                        "machine has other ones; start again"
                    )
            self._parts[digest] = self.evaluator.part(self._samples[digest])
        return self._parts[digest]

    def targets(self, unit: Json) -> Json:
        return {"num": len(self.part(unit["part"]).targets)}

    def losses(self, unit: Json) -> Json:
        schedule = Schedule.from_json(json.dumps(unit["schedule"]), source=f"unit {unit['key']}")
        losses = self.evaluator.measure(schedule, self.part(unit["part"]), answers=unit["answers"])
        return {name: list(getattr(losses, name)) for name in ("ids", "kl", "top1", "exact")}


_KINDS: dict[str, Callable[[CalibrationPerformer, Json], Json]] = {
    "targets": CalibrationPerformer.targets,
    "losses": CalibrationPerformer.losses,
}


def make_performer(
    *,
    checkpoint: str,
    fingerprint: str,
    settings: Json,
    parts: dict[str, list[Json]],
    threads: int,
    store: str | None,
    base: Json,
) -> StoredPerformer:
    """The performer of a `Job`, whose factory gives the arguments.

    Raises InputError where this machine has another model or other releases of what results depend on.
    """
    found = Checkpoint.open(checkpoint)
    if found.fingerprint(times=False) != fingerprint:
        raise InputError(f"{checkpoint}: these are not the weights that the run began with; give all machines the same")
    for name, wanted in base["versions"].items():
        have = versions().get(name)
        if have != wanted:
            raise InputError(f"a worker has {name} {have}, the run began with {wanted}; install the same everywhere")
    taken = CalibrationSettings(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    )
    with torch_threads(threads):
        model, processor, family = load_model(found, device=taken.device, dtype=taken.dtype, attn=taken.attn)
    evaluator = Evaluator(
        model, processor, family, eos_ids=found.eos_ids, base=base, settings=taken, store=Store(store)
    )
    samples = {digest: samples_from_json(part) for digest, part in parts.items()}
    return StoredPerformer(CalibrationPerformer(evaluator, samples, threads), Store(store))
