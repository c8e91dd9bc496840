"""What a calibration is asked for and what it found: settings and `calibration.json`. No torch."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitcop.calibrate.losses import Estimate
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule import Schedule
from vitcop.calibrate.task_scores import metric_of
from vitcop.plugins.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How hard to search and how to run the model.

    Args:
        batch_size: prompts run together.
        max_new_tokens: longest answer of the original that is compared.
        top_k: tokens whose probability is compared one by one; all others count as one.
        metric: the task score: exact_match, vqa_accuracy, anls or multiple_choice.
        max_candidates: candidates in the first rung.
        rungs: share of the calibration set that each rung of successive halving has seen in the end, ascending to 1.
        survivors: share of the candidates that goes on from each rung but the last.
        neighbours: candidates around the best that are tried after the last rung; 0 for none.
        finalists: candidates measured again on the selection set.
        curve_budgets: budgets of the curve, beside the one asked for.
        head_reductions: reductions of the key norm to try.
        merge_orders: orders of a merge to try; "largest" merges by the negated score.
        cutoff_quantiles: cluster cutoffs to try; None is the paper's distance 8.
        check_share: share of the calibration samples for which gradients check what the scores tell.
        device, dtype, attn: as in `load_model`.
        vision_cache_bytes: vision outputs held between candidates.
        prefix_memory_bytes: prefixes (hidden states, keys and values before a drop) held between candidates, on the
            model's device; 0 for none.
        prefix_disk_bytes: prefixes of the unpruned model kept in the store; 0 for none.
    """

    batch_size: int = 16
    max_new_tokens: int = 16
    top_k: int = 64
    metric: str = "exact_match"
    max_candidates: int = 66
    rungs: tuple[float, ...] = (0.25, 0.5, 1.0)
    survivors: float = 0.3
    neighbours: int = 16
    finalists: int = 4
    curve_budgets: tuple[float, ...] = (1 / 3, 2 / 9, 1 / 9, 0.05)
    head_reductions: tuple[str, ...] = ("mean_key",)
    merge_orders: tuple[str, ...] = ("smallest",)
    cutoff_quantiles: tuple[float | None, ...] = (None, 0.2)
    check_share: float = 0.25
    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    vision_cache_bytes: int = 4 << 30
    prefix_memory_bytes: int = 2 << 30
    prefix_disk_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "top_k", "max_candidates", "finalists"):
            if getattr(self, name) < 1:
                raise InputError(f"calibration settings: {name} must be at least 1, found {getattr(self, name)}")
        for name in ("vision_cache_bytes", "prefix_memory_bytes", "prefix_disk_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"calibration settings: {name} must be at least 0, found {getattr(self, name)}")
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise InputError(f"calibration settings: rungs must ascend within (0, 1] and end at 1, found {self.rungs}")
        metric_of(self.metric)
        if not 0 <= self.check_share <= 1:
            raise InputError(f"calibration settings: check_share must be in [0, 1], found {self.check_share}")
        if not 0 < self.survivors <= 1:
            raise InputError(f"calibration settings: survivors must be in (0, 1], found {self.survivors}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One schedule measured on one sample set.

    Args:
        name: of the candidate, or "paper", "uniform", "random", "chosen".
        schedule: what was measured.
        group_counts: visual tokens of each layer group.
        budget: layer average of it, as a share of the original count.
        kl: KL(original ‖ pruned) in nats, mean over the answer tokens of a sample.
        top1: share of answer tokens with the same likeliest token.
        exact: share of samples answered right (exact match), where answers are known and it was measured.
        score: mean task score by the settings' metric, likewise.
        cost: prefill FLOPs and KV bytes of a typical prompt by formula (`vitcop.calibrate.cost`).
        choices: the candidate's choices, empty for presets and controls.
    """

    name: str
    schedule: Schedule
    group_counts: tuple[int, ...]
    budget: float
    kl: Estimate
    top1: Estimate
    exact: Estimate | None
    cost: dict[str, int]
    choices: dict[str, Any] = field(default_factory=dict)
    score: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of the curve of loss over budget; `kind` is "chosen", "paper", "uniform" or "random"."""

    kind: str
    wanted: float
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that a calibration found. `schedule` is the one to use; it carries its provenance.

    Args:
        budget, seed: as asked for.
        num_visual: V of the calibration samples, from which keep fractions were made.
        text_tokens: other tokens of a typical prompt (median).
        samples: digests and sizes of both sets.
        versions: of what computed it.
        original: the unpruned model on the selection set: `exact` (or None) and `cost`.
        observation: what the scores tell about the unpruned model on the calibration samples, layer by layer.
        candidates: on the calibration set, least loss first; those that left the search early saw a part of it
            (`kl.num`).
        selection: on the selection set: finalists, the paper's schedule where it can meet the budget, controls.
        chosen: name of the chosen entry of `selection`.
        curve: loss over budgets.
        overflowed: names of schedules that were left out because their logits were not finite, sorted.
    """

    schedule: Schedule
    budget: float
    seed: int
    num_visual: int
    text_tokens: int
    samples: dict[str, Any]
    versions: dict[str, str]
    original: dict[str, Any]
    observation: Observation
    candidates: tuple[Measured, ...]
    selection: tuple[Measured, ...]
    chosen: str
    curve: tuple[CurvePoint, ...]
    overflowed: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of `calibration.json`: sorted keys and no times, so that equal runs are equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "calibration") -> "Calibration":
        """Parse `calibration.json`. Raises InputError that names `source`."""
        try:
            data = json.loads(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise InputError(
                    f"{source}: schema_version {data['schema_version']!r} is not known here (this vitcop reads "
                    f"{SCHEMA_VERSION})"
                )
            data["schedule"] = _schedule(data["schedule"], source)
            data["observation"] = Observation.from_json(data["observation"], source=source)
            for name in ("candidates", "selection"):
                data[name] = tuple(_measured(item, source) for item in data[name])
            data["curve"] = tuple(
                CurvePoint(kind=item["kind"], wanted=item["wanted"], measured=_measured(item["measured"], source))
                for item in data["curve"]
            )
            data["overflowed"] = tuple(data.get("overflowed", ()))
            return cls(**data)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source}: not a calibration ({type(error).__name__}: {error})") from None

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read `calibration.json`. Raises InputError where it cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot read the calibration ({error})") from None
        return cls.from_json(text, source=str(path))


def _schedule(data: dict[str, Any], source: str) -> Schedule:
    return Schedule.from_json(json.dumps(data), source=source)


def _measured(data: dict[str, Any], source: str) -> Measured:
    estimates = {
        name: None if data.get(name) is None else Estimate(**data[name]) for name in ("kl", "top1", "exact", "score")
    }
    return Measured(
        **{
            **data,
            **estimates,
            "schedule": _schedule(data["schedule"], source),
            "group_counts": tuple(data["group_counts"]),
        }
    )
