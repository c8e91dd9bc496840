"""What a worker of a calibration does: it holds the model and the sample parts, and measures units.

| kind | content | result |
|---|---|---|
| model | | num_layers, vision_scores, search_scores, shape |
| targets | part | visual, text: tokens of each prompt, its answers in the store afterwards; bad: why, by sample id |
| original | part | `Losses` of the unpruned model |
| observed | part, check_share | a piece of an `Observation` |
| cell | choices, parts, num_visual, saliency, centers | rows of the sensitivity table |
| losses | schedule, part, answers | `Losses` |
| rival | name, budget, num_visual, part | `Losses`, with answers |
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from vitcop.calibrate.baselines import RIVALS
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.strict_json import read
from vitcop.calibrate.core.versions import versions
from vitcop.calibrate.data.samples import Sample, digested
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.evaluate.sensitivity import Row, measure_cell
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.observe.observing import observe_part
from vitcop.calibrate.schedule.choices import Choice
from vitcop.calibrate.schedule.cost import DecoderShape
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.work.executors.base import Json
from vitcop.calibrate.work.performing import StoredPerformer, unit
from vitcop.calibrate.work.torch_threads import torch_threads
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS


def targets_unit(base: Any, part: str) -> Json:
    """Let the original answer a part, given by its digest."""
    return unit("targets", base, part=part)


def losses_unit(base: Any, schedule: Schedule, part: str, *, answers: bool = False) -> Json:
    """Measure a schedule on a part, given by its digest; `answers` as in `Evaluator.measure`."""
    return unit("losses", base, schedule=schedule.plain(), part=part, answers=answers)


def cell_unit(base: Any, choices: Sequence[Choice], parts: Sequence[str], **geometry: Any) -> Json:
    """Measure all choices of one cell alone; `geometry` as in `measure_cell`."""
    plain = [asdict(choice) for choice in choices]
    return unit("cell", base, choices=plain, parts=list(parts), **geometry)


def losses_of(result: Json) -> Losses:
    """The result of a unit that measures losses."""
    losses = Losses.from_json(result)
    assert losses is not None, "no losses"
    return losses


def rows_of(result: Json) -> list[Row]:
    """The result of a cell unit."""
    return [
        Row(choice=read(Choice, row["choice"]), losses=losses_of(row["losses"]), survived=row["survived"])
        for row in result["rows"]
    ]


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
            self._check(digest)
            self._parts[digest] = self.evaluator.part(self._samples[digest])
        return self._parts[digest]

    def _check(self, digest: str) -> None:
        for sample in self._samples[digest]:
            if digested(sample).digest != sample.digest:
                raise InputError(
                    f"sample {sample.id}: its images are not what they were when this run began, or another "
                    "machine has other ones; start again"
                )

    def _bad(self, digest: str) -> dict[str, str]:
        """Which samples of a part cannot be answered by themselves, and why."""
        bad = {}
        for sample in self._samples[digest]:
            try:
                self.evaluator.part([sample])
            except InputError as error:
                bad[sample.id] = str(error)
        return bad

    def model(self, unit: Json) -> Json:
        family = self.evaluator.family
        return {
            "num_layers": family.num_layers,
            "vision_scores": list(family.vision_scores),
            "search_scores": list(family.search_scores),
            "shape": asdict(DecoderShape.from_config(self.evaluator.model.config)),
        }

    def targets(self, unit: Json) -> Json:
        self._check(unit["part"])
        try:
            self.part(unit["part"])
        except InputError:
            bad = self._bad(unit["part"])
            if not bad:
                raise
            return {"bad": bad, "visual": [], "text": []}
        prompts = [
            (batch.num_visual, int(mask.sum()) - batch.num_visual)
            for _, batch in self.part(unit["part"]).prepared
            for mask in batch.attention_mask
        ]
        return {"bad": {}, "visual": [visual for visual, _ in prompts], "text": [text for _, text in prompts]}

    def original(self, unit: Json) -> Json:
        return self.evaluator.original(self.part(unit["part"])).to_json()

    def observed(self, unit: Json) -> Json:
        evaluator = self.evaluator
        part = self.part(unit["part"])
        piece = observe_part(evaluator.model, evaluator.family, evaluator.vision, part, check_share=unit["check_share"])
        return asdict(piece)

    def cell(self, unit: Json) -> Json:
        rows = measure_cell(
            self.evaluator,
            read(list[Choice], unit["choices"]),
            [self.part(digest) for digest in unit["parts"]],
            num_visual=unit["num_visual"],
            saliency=unit["saliency"],
            centers=tuple(unit["centers"]),
        )
        return {
            "rows": [
                {"choice": asdict(row.choice), "losses": row.losses.to_json(), "survived": row.survived} for row in rows
            ]
        }

    def losses(self, unit: Json) -> Json:
        schedule = read(Schedule, unit["schedule"])
        return self.evaluator.measure(schedule, self.part(unit["part"]), answers=unit["answers"]).to_json()

    def rival(self, unit: Json) -> Json:
        evaluator, rule = self.evaluator, RIVALS[unit["name"]]
        size = {"budget": unit["budget"], "num_visual": unit["num_visual"]}
        runner = rule.runner(evaluator.model, evaluator.family, evaluator.vision, **size)
        assert runner is not None, "a rule was asked for a budget that it cannot meet"
        return evaluator.measure_runner(runner, self.part(unit["part"]), answers=True).to_json()


_KINDS: dict[str, Callable[[CalibrationPerformer, Json], Json]] = {
    kind: getattr(CalibrationPerformer, kind)
    for kind in ("model", "targets", "original", "observed", "cell", "losses", "rival")
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
    if base["op_revisions"] != REVISIONS:
        raise InputError("a worker has other revisions of vitcop's ops than the run began with; install one vitcop")
    taken = read(CalibrationSettings, settings)
    with torch_threads(threads):
        model, processor, family = load_model(found, device=taken.device, dtype=taken.dtype, attn=taken.attn)
    evaluator = Evaluator(
        model, processor, family, eos_ids=found.eos_ids, base=base, settings=taken, store=Store(store)
    )
    samples = read(dict[str, list[Sample]], parts)
    return StoredPerformer(CalibrationPerformer(evaluator, samples, threads), Store(store))
