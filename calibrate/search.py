"""The search for a schedule: candidates that meet the budget, successive halving, one look around the best, and a final
choice on other samples.

1. Candidates (scores × layers × shares) are drawn by the seed, every choice of scores before any comes twice.
2. Successive halving on the calibration set: all see its first quarter, the better third goes on to a half, and so on.
3. Candidates that differ from the two best in one choice go through the same rungs.
4. The best few, the paper's schedule and the controls are measured on the selection set. The least KL wins; controls
never do.
5. The winner's kind, the paper's and the controls are measured over several budgets.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from vitcop.calibrate.budget import check_budget, check_one_token
from vitcop.calibrate.calibration import Calibration, CalibrationSettings, CurvePoint, Measured
from vitcop.calibrate.candidates import Candidate, PaperKind, ScheduleKind, SearchSpace, choices_of
from vitcop.calibrate.checkpoint import Checkpoint
from vitcop.calibrate.cost import DecoderShape, prefill_cost
from vitcop.calibrate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.loading import load_model
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.observe.observing import observe
from vitcop.calibrate.presets import controls
from vitcop.calibrate.processor_files import processor_digest
from vitcop.calibrate.progress import NoProgress, Progress
from vitcop.calibrate.samples import Sample, samples_digest
from vitcop.calibrate.schedule import Schedule, check_seed
from vitcop.calibrate.store import Store
from vitcop.plugins.errors import InputError

CONTROLS = ("uniform", "random")


def calibrate(
    checkpoint: Checkpoint,
    calibration_samples: Sequence[Sample],
    selection_samples: Sequence[Sample],
    *,
    budget: float,
    seed: int = 0,
    settings: CalibrationSettings | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Find the schedule of least loss that meets the budget.

    Args:
        calibration_samples: candidates are compared on these; 64 to 200 are usual.
        selection_samples: the last candidates are compared on these; none may be among the calibration samples.
        budget: mean over the decoder layers of visual tokens present / visual tokens of the unpruned model, in (0, 1].
        seed: of everything drawn, in [0, 2³¹): equal inputs and seed give equal bytes on one machine.
        store: folder for finished evaluations; a search that was interrupted goes on from there.

    A schedule whose logits are not finite is left out (`Calibration.overflowed`). Raises InputError where the sets
    overlap or are empty, the budget cannot be met, or the logits of the original or of every schedule are not finite.
    """
    settings, progress = settings or CalibrationSettings(), progress or NoProgress()
    _check_samples(calibration_samples, selection_samples)
    check_budget(budget)
    check_seed("seed", seed)
    search = _Search(checkpoint, budget, seed, settings, Store(store), progress)
    return search.run(calibration_samples, selection_samples)


class _Search:
    """One run of `calibrate`: the model, the sample parts, and everything measured so far."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        budget: float,
        seed: int,
        settings: CalibrationSettings,
        store: Store,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.budget, self.seed = checkpoint, budget, seed
        self.settings, self.progress, self.store = settings, progress, store
        model, processor, self.family = load_model(
            checkpoint, device=settings.device, dtype=settings.dtype, attn=settings.attn
        )
        self.model = model
        self.versions = versions()
        self.base = [
            checkpoint.config_hash,
            checkpoint.fingerprint(),
            processor_digest(checkpoint.path),
            sorted(checkpoint.eos_ids),
            self.versions,
            settings.device,
            settings.dtype,
            settings.attn,
        ]
        self.evaluator = Evaluator(
            model, processor, self.family, eos_ids=checkpoint.eos_ids, base=self.base, settings=settings, store=store
        )
        self.num_layers = self.family.num_layers
        self.paper = PaperKind(vision_score=self.family.vision_scores[0])
        self.shape = DecoderShape.from_config(model.config)
        self.num_visual = 0
        self.text_tokens = 0
        self.parts: list[Part] = []
        self.selection: list[Part] = []
        self.losses: dict[Schedule, Losses] = {}
        self.seen: dict[Schedule, ScheduleKind] = {}
        self.overflowed: set[str] = set()

    def run(self, calibration_samples: Sequence[Sample], selection_samples: Sequence[Sample]) -> Calibration:
        self._prepare(calibration_samples, selection_samples)
        observation = self._observe()
        original = Losses.joined([self.evaluator.original(part) for part in self.selection]).estimates()["exact"]
        chosen, selection, kind = self._choose()
        curve = self._curve(kind)
        samples = {
            "calibration": {"digest": samples_digest(calibration_samples), "num": len(calibration_samples)},
            "selection": {"digest": samples_digest(selection_samples), "num": len(selection_samples)},
        }
        provenance = {
            "chosen": chosen.name,
            "constraint": {"kind": "layer_average", "budget": self.budget, "num_visual": self.num_visual},
            "forecast": {"budget": chosen.budget, **chosen.cost},
            "measured": {
                name: getattr(chosen, name) and asdict(getattr(chosen, name)) for name in ("kl", "top1", "exact")
            },
            "samples": samples,
            "seed": self.seed,
            "versions": self.versions,
        }
        candidates = [
            self._measured(self.seen[schedule], schedule, losses)
            for schedule, losses in self.losses.items()
            if losses.is_finite
        ]
        return Calibration(
            schedule=replace(
                chosen.schedule,
                model_id=self.checkpoint.model_id,
                config_hash=self.checkpoint.config_hash,
                provenance=provenance,
            ),
            budget=self.budget,
            seed=self.seed,
            num_visual=self.num_visual,
            text_tokens=self.text_tokens,
            samples=samples,
            versions=self.versions,
            original={"exact": original and asdict(original), "cost": self._cost(Schedule(num_layers=self.num_layers))},
            observation=observation,
            # The longest measured first: losses over different samples do not compare.
            candidates=tuple(sorted(candidates, key=lambda item: (-item.kl.num, item.kl.mean, item.name))),
            selection=tuple(selection),
            chosen=chosen.name,
            curve=tuple(curve),
            overflowed=tuple(sorted(self.overflowed)),
        )

    # -- what the model is like ---------------------------------------------------------------------------------------

    def _prepare(self, calibration_samples: Sequence[Sample], selection_samples: Sequence[Sample]) -> None:
        """Cut the calibration set into the parts that the rungs add, and let the original answer everything."""
        order = list(calibration_samples)
        random.Random(self.seed).shuffle(order)
        cuts = sorted({math.ceil(share * len(order)) for share in self.settings.rungs})
        pieces = [order[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        # In pieces, so that an interruption loses little.
        step = 4 * self.settings.batch_size
        selected = [selection_samples[i : i + step] for i in range(0, len(selection_samples), step)]
        self.progress.start(len(pieces) + len(selected), "the original's answers")
        for piece in pieces:
            self.parts.append(self.evaluator.part(piece))
            self.progress.advance()
        for piece in selected:
            self.selection.append(self.evaluator.part(piece))
            self.progress.advance()
        prompts = [batch for part in self.parts for _, batch in part.prepared]
        counts = Counter(batch.num_visual for batch in prompts for _ in batch.input_ids if batch.num_visual)
        if not counts:
            raise InputError("no calibration sample has an image or a video, so there is nothing to drop")
        self.num_visual = counts.most_common(1)[0][0]
        self.text_tokens = round(
            median(int(row.sum()) - batch.num_visual for batch in prompts for row in batch.attention_mask)
        )
        check_one_token(self.budget, self.num_visual)

    def _observe(self) -> Observation:
        """What the scores tell about the unpruned model on the calibration set."""
        return observe(
            self.model,
            self.family,
            self.evaluator.vision,
            self.parts,
            check_share=self.settings.check_share,
            store=self.store,
            base=[self.base, self.settings.batch_size, self.settings.max_new_tokens],
            progress=self.progress,
        )

    # -- the search ---------------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[Measured, list[Measured], ScheduleKind]:
        """(the chosen one, everything measured on the selection set, the kind of the chosen one)."""
        if self.budget * self.num_visual > self.num_visual - 1:
            empty = _EmptyKind()
            chosen = self._on_selection(empty, empty.schedule(self.num_layers, self.num_visual, 1.0))
            if chosen is None:
                raise self._all_overflow()
            return chosen, [chosen], empty
        finalists = self._search()
        kinds = {self.seen[schedule].name: (self.seen[schedule], schedule) for schedule in finalists}
        paper = self.paper.schedule(self.num_layers, self.num_visual, self.budget)
        if paper is not None:
            kinds.setdefault(PaperKind.name, (self.paper, paper))
        self.progress.start(len(kinds) + len(CONTROLS), "selection")
        measured = {}
        for name, (kind, schedule) in kinds.items():
            found = self._on_selection(kind, schedule)
            if found is not None:
                measured[name] = found
            self.progress.advance()
        if not measured:
            raise self._all_overflow()
        chosen = min(measured.values(), key=lambda item: (item.kl.mean, item.name))
        selection = sorted(measured.values(), key=lambda item: (item.kl.mean, item.name))
        for name in CONTROLS:
            control = self._control(chosen.schedule, name)
            selection += [] if control is None else [control]
            self.progress.advance()
        return chosen, selection, kinds[chosen.name][0]

    def _search(self) -> list[Schedule]:
        """The finalists' schedules, least loss on the calibration set first."""
        space = SearchSpace.of(
            self.num_layers,
            vision_scores=self.family.search_scores,
            head_reductions=self.settings.head_reductions,
            merge_orders=self.settings.merge_orders,
            cutoff_quantiles=self.settings.cutoff_quantiles,
        )
        kinds: list[ScheduleKind] = [self.paper, *space.shuffled(self.seed)]
        found = self._halve(self._admit(kinds, self.settings.max_candidates), "candidates")
        if not found and self.overflowed:
            raise self._all_overflow()
        if not found:
            raise InputError(
                f"budget {self.budget}: no candidate meets it on {self.num_layers} layers and {self.num_visual} "
                "visual tokens"
            )
        if self.settings.neighbours:
            around = [
                other
                for schedule in found[:2]
                for other in (
                    space.neighbours(self.seen[schedule]) if isinstance(self.seen[schedule], Candidate) else []
                )
            ]
            random.Random(self.seed).shuffle(around)
            found += self._halve(self._admit(around, self.settings.neighbours), "neighbours of the best")
        return sorted(found, key=self._mean)[: self.settings.finalists]

    def _admit(self, kinds: Sequence[ScheduleKind], limit: int) -> list[Schedule]:
        """New schedules that meet the budget, in order, at most `limit`."""
        admitted: list[Schedule] = []
        for kind in kinds:
            schedule = kind.schedule(self.num_layers, self.num_visual, self.budget)
            if schedule is not None and schedule not in self.seen:
                self.seen[schedule] = kind
                admitted.append(schedule)
                if len(admitted) == limit:
                    break
        return admitted

    def _halve(self, schedules: list[Schedule], title: str) -> list[Schedule]:
        """Successive halving; returns those that saw the whole calibration set, best first. One that overflows leaves
        at once."""
        alive = schedules
        for rung, part in enumerate(self.parts):
            self.progress.start(len(alive), f"{title}, round {rung + 1} of {len(self.parts)}")
            for schedule in alive:
                losses = self.evaluator.measure(schedule, part)
                self.losses[schedule] = Losses.joined([self.losses[schedule], losses]) if rung else losses
                self.progress.advance()
            self.overflowed |= {self.seen[item].name for item in alive if not self.losses[item].is_finite}
            alive = sorted((item for item in alive if self.losses[item].is_finite), key=self._mean)
            if rung + 1 < len(self.parts):
                alive = alive[
                    : max(min(self.settings.finalists, len(alive)), math.ceil(self.settings.survivors * len(alive)))
                ]
        return alive

    def _mean(self, schedule: Schedule) -> tuple[float, str]:
        return self.losses[schedule].estimates()["kl"].mean, self.seen[schedule].name

    def _all_overflow(self) -> InputError:
        return InputError(
            f"the logits of every schedule tried are not finite with dtype {self.settings.dtype} (first "
            f"{min(self.overflowed)}): the model overflows; try bfloat16 or float32"
        )

    # -- measuring on the selection set -------------------------------------------------------------------------------

    def _on_selection(self, kind: ScheduleKind, schedule: Schedule, name: str | None = None) -> Measured | None:
        """None where it overflows."""
        losses = Losses.joined([self.evaluator.measure(schedule, part, answers=True) for part in self.selection])
        if not losses.is_finite:
            self.overflowed.add(name or kind.name)
            return None
        return self._measured(kind, schedule, losses, name)

    def _control(self, schedule: Schedule, name: str) -> Measured | None:
        return self._on_selection(_EmptyKind(), controls(schedule, name, seed=self.seed), name)

    def _curve(self, chosen: ScheduleKind) -> list[CurvePoint]:
        """The chosen kind, the paper's and the controls over budgets; a kind that cannot meet a budget, or overflows,
        has no point there."""
        if isinstance(chosen, _EmptyKind):
            return []
        wanted = sorted(
            {self.budget, *(value for value in self.settings.curve_budgets if value * self.num_visual >= 1)},
            reverse=True,
        )
        points: list[CurvePoint] = []
        self.progress.start(len(wanted) * (2 + len(CONTROLS)), "curve over budgets")

        def add(name: str, budget: float, measured: Measured | None) -> None:
            if measured is not None:
                points.append(CurvePoint(kind=name, wanted=budget, measured=measured))

        for budget in wanted:
            kinds = {"chosen": chosen, "paper": self.paper}
            schedules = {name: kind.schedule(self.num_layers, self.num_visual, budget) for name, kind in kinds.items()}
            for name, schedule in schedules.items():
                if schedule is not None:
                    add(name, budget, self._on_selection(kinds[name], schedule))
                self.progress.advance()
            like = schedules["chosen"] or schedules["paper"]
            for name in CONTROLS:
                if like is not None:
                    add(name, budget, self._control(like, name))
                self.progress.advance()
        return points

    def _measured(self, kind: ScheduleKind, schedule: Schedule, losses: Losses, name: str | None = None) -> Measured:
        return Measured(
            name=name or kind.name,
            schedule=schedule,
            group_counts=schedule.group_counts(self.num_visual),
            budget=schedule.budget(self.num_visual),
            cost=self._cost(schedule),
            choices=choices_of(kind),
            **losses.estimates(),
        )

    def _cost(self, schedule: Schedule) -> dict[str, int]:
        return asdict(prefill_cost(self.shape, schedule.layer_counts(self.num_visual), self.text_tokens))


class _EmptyKind:
    """Nothing is dropped; the only schedule of budget 1."""

    name = "none"

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        return Schedule(num_layers=num_layers)


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    found = {}
    for name in ("vitcop", "torch", "transformers", "numpy", "scipy", "pillow", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _check_samples(calibration_samples: Sequence[Sample], selection_samples: Sequence[Sample]) -> None:
    for name, samples in (("calibration", calibration_samples), ("selection", selection_samples)):
        if not samples:
            raise InputError(f"the {name} set is empty")
    shared = {sample.content_digest for sample in calibration_samples} & {
        sample.content_digest for sample in selection_samples
    }
    if shared:
        first = next(sample.id for sample in selection_samples if sample.content_digest in shared)
        raise InputError(
            f"{len(shared)} samples are in both the calibration and the selection set, first {first}; the choice "
            "needs samples of its own"
        )
