"""Measuring schedules on parts of a sample set."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from vitcop.calibrate.core.digests import key_of
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.strict_json import read
from vitcop.calibrate.data.answers import exact_match
from vitcop.calibrate.data.samples import Sample, batches, samples_digest
from vitcop.calibrate.data.task_scores import metric_of
from vitcop.calibrate.evaluate.grid import candidate_layers
from vitcop.calibrate.evaluate.losses import Estimate, kl_divergence, top1_agreement
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.evaluate.targets import Target, compute_targets, load_targets, save_targets
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.caches import forked
from vitcop.calibrate.run.generation import continue_forced, continue_free
from vitcop.calibrate.run.original import OriginalRunner
from vitcop.calibrate.run.prefix_cache import PrefixCache
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


class Estimates(TypedDict):
    """Means and standard errors of losses; None where no sample has it."""

    kl: Estimate
    top1: Estimate
    exact: Estimate | None
    score: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Of each sample of a part, in the order of `ids`.

    `kl` is infinite where the pruned model's logits are not finite. `exact` and `score` are None where they were not
    measured or the sample has no answer; `score` is by the task metric of the settings, in [0, 1], and the same as
    `exact` where that is exact match.
    """

    ids: tuple[str, ...]
    kl: tuple[float, ...]
    top1: tuple[float, ...]
    exact: tuple[bool | None, ...]
    score: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len({len(getattr(self, name)) for name in LOSSES}) != 1:
            raise InputError("losses: their columns differ in length")

    @classmethod
    def joined(cls, parts: Sequence["Losses"]) -> "Losses":
        """The parts one after another."""
        return cls(**{name: tuple(item for part in parts for item in getattr(part, name)) for name in LOSSES})

    @classmethod
    def from_json(cls, held: Any) -> "Losses | None":
        """From what `to_json` gave; None where it is something else."""
        try:
            kl = read(list[float | None], held["kl"])
            return read(cls, held | {"kl": [math.inf if value is None else value for value in kl]})
        except (InputError, TypeError, KeyError):
            return None

    def by_id(self, measure: str) -> dict[str, float]:
        """One of kl, top1, exact and score by sample id, without those that do not have it."""
        values = zip(self.ids, getattr(self, measure), strict=True)
        return {sample: float(value) for sample, value in values if value is not None}

    def to_json(self) -> dict[str, list[Any]]:
        """Plain lists by name; JSON lacks infinity, so a loss that is infinite is null."""
        columns = {name: list(getattr(self, name)) for name in LOSSES}
        columns["kl"] = [value if math.isfinite(value) else None for value in self.kl]
        return columns

    @property
    def is_finite(self) -> bool:
        """Whether every loss is a finite number."""
        return all(map(math.isfinite, self.kl))

    def estimates(self, clusters: Mapping[str, Hashable] | None = None) -> Estimates:
        """Means and standard errors: kl, top1, exact, score (None where no sample has it).

        Args:
            clusters: of each sample id; samples of one cluster (`image_clusters`) are not taken for independent.
        """
        found: dict[str, Estimate | None] = {}
        for name in LOSSES[1:]:
            pairs = [
                (key, value) for key, value in zip(self.ids, getattr(self, name), strict=True) if value is not None
            ]
            groups = None if clusters is None else [clusters[key] for key, _ in pairs]
            found[name] = Estimate.of([float(value) for _, value in pairs], groups) if pairs else None
        return cast(Estimates, found)  # every sample has kl and top1


LOSSES = ("ids", "kl", "top1", "exact", "score")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a sample set, preprocessed, with the original's answers."""

    digest: str
    prepared: list[tuple[list[Sample], PromptBatch]]
    targets: dict[str, Target]


class Evaluator:
    """Runs schedules of one model over parts of sample sets.

    Args:
        base: what the original's answers depend on beside samples (weights, versions, precision); JSON.
        store: where these are kept.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: "Family",
        *,
        eos_ids: frozenset[int],
        base: Any,
        settings: CalibrationSettings,
        store: Store,
    ) -> None:
        self.model, self.processor, self.family = model, processor, family
        self.eos_ids, self.settings, self.store = eos_ids, settings, store
        self._base = [base, settings.max_new_tokens, settings.top_k, settings.batch_size]
        self._metric = metric_of(settings.metric)
        self.vision = VisionCache(settings.vision_cache_bytes)
        self.prefixes = (
            PrefixCache(
                model,
                family,
                layers=candidate_layers(family.num_layers),
                vision=self.vision,
                limit_bytes=settings.prefix_memory_bytes,
            )
            if settings.prefix_memory_bytes
            else None
        )

    def part(self, samples: Sequence[Sample]) -> Part:
        """Preprocess samples and let the original answer them, or read its answers from the store.

        Raises InputError where the original's logits are not finite, as with a model that overflows in its dtype.
        """
        digest = samples_digest(samples)
        prepared = list(batches(samples, self.processor, self.family, self.settings.batch_size))
        path = (
            None
            if self.store.folder is None
            else self.store.folder / f"targets-{key_of(self._base, digest)}.safetensors"
        )
        targets = self._held_targets(path, {sample.id for sample in samples})
        if targets is None:
            targets = compute_targets(
                OriginalRunner(self.model, self.family),
                prepared,
                max_new_tokens=self.settings.max_new_tokens,
                eos_ids=self.eos_ids,
                top_k=self.settings.top_k,
            )
            self._check_original(targets)
            if path is not None:
                save_targets(targets, path)
        return Part(digest=digest, prepared=prepared, targets=targets)

    @staticmethod
    def _held_targets(path: Path | None, ids: set[str]) -> dict[str, Target] | None:
        """Answers of an earlier run; None where there are none, an interruption left half of them, or they are of
        other samples."""
        try:
            held = load_targets(path) if path is not None and path.is_file() else None
        except InputError:
            return None
        return held if held is not None and set(held) == ids else None

    def _check_original(self, targets: dict[str, Target]) -> None:
        for sample_id, target in targets.items():
            if np.isnan(target.top_logprobs).any():
                raise InputError(
                    f"sample {sample_id}: the unpruned model's logits are not finite with dtype {self.settings.dtype}; "
                    "its weights are broken, or it overflows: try bfloat16 or float32"
                )

    def original(self, part: Part) -> Losses:
        """The unpruned model on a part: no loss, and how often it is right."""
        samples = [sample for members, _ in part.prepared for sample in members]
        exact, score = self._judged(samples, [part.targets[sample.id].tokens for sample in samples])
        return Losses(
            ids=tuple(sample.id for sample in samples),
            kl=(0.0,) * len(samples),
            top1=(1.0,) * len(samples),
            exact=exact,
            score=score,
        )

    def measure(self, schedule: Schedule, part: Part, *, answers: bool = False) -> Losses:
        """Losses of a schedule on a part; `answers` also lets the pruned model answer freely, for the task score."""
        runner = ScheduledRunner(self.model, self.family, schedule, vision=self.vision, prefixes=self.prefixes)
        return self.measure_runner(runner, part, answers=answers)

    def measure_runner(self, runner: Runner, part: Part, *, answers: bool = False) -> Losses:
        """Losses of any runner of this model on a part."""
        return Losses.joined(
            [self._measure_batch(runner, samples, batch, part, answers) for samples, batch in part.prepared]
        )

    def _measure_batch(
        self, runner: Runner, samples: list[Sample], batch: PromptBatch, part: Part, answers: bool
    ) -> Losses:
        targets = [part.targets[sample.id] for sample in samples]
        prefill = runner.prefill(batch)
        free = None
        if answers and any(sample.answers for sample in samples):
            free = replace(prefill, state=forked(prefill.state))
        logits_BTX = continue_forced(runner, prefill, [target.tokens.tolist() for target in targets])
        rows = [logits_TX[: len(target.tokens)] for logits_TX, target in zip(logits_BTX, targets, strict=True)]
        top1 = [top1_agreement(target, row) for target, row in zip(targets, rows, strict=True)]
        tokens: Sequence[Sequence[int] | np.ndarray] | None = None
        if free is not None:
            # Where every token agrees, the free answer is the original's.
            tokens = [target.tokens for target in targets]
            if min(top1) < 1.0:
                tokens = continue_free(
                    runner, free, max_new_tokens=self.settings.max_new_tokens, eos_ids=self.eos_ids
                ).tokens
        exact, score = self._judged(samples, tokens)
        kl = [kl_divergence(target, row) for target, row in zip(targets, rows, strict=True)]
        return Losses(
            ids=tuple(sample.id for sample in samples),
            kl=tuple(math.inf if math.isnan(value) else value for value in kl),
            top1=tuple(top1),
            exact=exact,
            score=score,
        )

    def _judged(
        self, samples: Sequence[Sample], tokens: Sequence[Sequence[int] | np.ndarray] | None
    ) -> tuple[tuple[bool | None, ...], tuple[float | None, ...]]:
        """(exact, score) of free answers; all None without answers."""
        exact: list[bool | None] = [None] * len(samples)
        score: list[float | None] = [None] * len(samples)
        for i, (sample, row) in enumerate(zip(samples, tokens or (), strict=False)):
            if sample.answers:
                text = self.processor.tokenizer.decode(list(row), skip_special_tokens=True)
                exact[i] = bool(exact_match(text, sample.answers))
                score[i] = float(self._metric(text, sample.answers))
        return tuple(exact), tuple(score)
