"""What a calibration is asked for and what it found: settings and `calibration.json`. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.choices import Choice, choice_from
from vitcop.calibrate.dtypes import dtype_name
from vitcop.calibrate.intervals import Interval
from vitcop.calibrate.losses import Estimate
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule import Schedule
from vitcop.calibrate.strict_json import from_json, to_json
from vitcop.calibrate.task_scores import metric_of
from vitcop.calibrate.verdict import Comparison
from vitcop.plugins.errors import InputError

SCHEMA_VERSION = 2

_POSITIVE = (
    "batch_size",
    "max_new_tokens",
    "top_k",
    "keep_counts",
    "max_drops",
    "programme_sets",
    "generation_size",
    "finalists",
    "curve_sets",
    "threads",
)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How hard to search and how to run the model.

    Args:
        batch_size: prompts run together.
        max_new_tokens: longest answer of the original that is compared.
        top_k: tokens whose probability is compared one by one; all others count as one.
        metric: the task score: exact_match, vqa_accuracy, anls or multiple_choice.
        rungs: share of the calibration set that the rules of a cell have seen after each round, ascending to 1.
        keep_counts: keep counts of the sensitivity table, on a geometric ladder.
        max_drops: most drops of a schedule, one in the vision stage counted.
        programme_sets: best sets of the integer programme that are measured.
        generations, generation_size: of the joint refinement around them; 0 generations for none.
        finalists: schedules measured again on the selection set.
        curve_budgets: budgets of the curve, beside the one asked for.
        curve_sets: best sets of the programme that are measured at each of these.
        head_reductions: reductions of the key norm to try.
        merge_orders: orders in which a merge by key norm is tried; "largest" merges by the negated score.
        cutoff_quantiles: cluster cutoffs to try; None is the paper's distance 8.
        check_share: share of the calibration samples for which gradients check what the scores tell.
        device, dtype, attn: as in `load_model`; "fp16" becomes "float16".
        threads: of torch, in each unit of work. Results may depend on it in their last bits, and never on how many
            workers there are.
        vision_cache_bytes: vision outputs held between candidates.
        prefix_memory_bytes: prefixes (hidden states, keys and values before a drop) held between candidates, on the
            model's device; 0 for none.
        prefix_disk_bytes: prefixes of the unpruned model kept in the store; 0 for none.
    """

    batch_size: int = 16
    max_new_tokens: int = 16
    top_k: int = 64
    metric: str = "exact_match"
    rungs: tuple[float, ...] = (0.25, 1.0)
    keep_counts: int = 6
    max_drops: int = 3
    programme_sets: int = 12
    generations: int = 6
    generation_size: int = 8
    finalists: int = 4
    curve_budgets: tuple[float, ...] = (1 / 3, 2 / 9, 1 / 9, 0.05)
    curve_sets: int = 4
    head_reductions: tuple[str, ...] = ("mean_key", "mean_norm")
    merge_orders: tuple[str, ...] = ("smallest",)
    cutoff_quantiles: tuple[float | None, ...] = (None, 0.2)
    check_share: float = 0.25
    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    threads: int = 1
    vision_cache_bytes: int = 4 << 30
    prefix_memory_bytes: int = 2 << 30
    prefix_disk_bytes: int = 0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise InputError(f"calibration settings: {name} must be at least 1, found {getattr(self, name)}")
        for name in ("generations", "vision_cache_bytes", "prefix_memory_bytes", "prefix_disk_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"calibration settings: {name} must be at least 0, found {getattr(self, name)}")
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise InputError(f"calibration settings: rungs must ascend within (0, 1] and end at 1, found {self.rungs}")
        metric_of(self.metric)
        # One name for each type: settings that mean the same are equal, and so are the keys of what they measure.
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        if not 0 <= self.check_share <= 1:
            raise InputError(f"calibration settings: check_share must be in [0, 1], found {self.check_share}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One schedule measured on one sample set.

    Args:
        name: its choices one after another, or "none", "paper", "uniform", "random", or a rival's name.
        schedule: what was measured; None for a rival that no schedule says.
        group_counts: visual tokens of each layer group.
        budget: layer average of it, as a share of the original count.
        kl: KL(original ‖ pruned) in nats, mean over the answer tokens of a sample.
        top1: share of answer tokens with the same likeliest token.
        exact: share of samples answered right (exact match), where answers are known and it was measured.
        score: mean task score by the settings' metric, likewise.
        cost: prefill FLOPs and KV bytes of a typical prompt by formula (`vitcop.calibrate.cost`).
        choices: what it was made of, empty for presets, rivals and controls.
    """

    name: str
    schedule: Schedule | None
    group_counts: tuple[int, ...]
    budget: float
    kl: Estimate
    top1: Estimate
    exact: Estimate | None
    cost: dict[str, int]
    choices: tuple[Choice, ...] = ()
    score: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of the curve of loss over budget.

    Args:
        kind: "chosen", "paper", "uniform", "random" or a rival's name.
        wanted: the budget it was made for.
        loss: its KL with the 95 % interval, resampling images.
        on_front: whether no other point of the curve has at most its budget and at most its loss, and less of one.
        front_share: of the resamples in which that holds.
    """

    kind: str
    wanted: float
    measured: Measured
    loss: Interval
    on_front: bool
    front_share: float


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """One drop alone, on the calibration set: `survived` where it saw all samples, else it was clearly worse than
    another rule of its cell."""

    choice: Choice
    kl: Estimate
    survived: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A schedule that was measured on the calibration set beside its additive forecast (nats; None where it merges, or
    holds a drop that was not measured alone); `generation` 0 are the starts, later ones the refinement's."""

    name: str
    forecast: float | None
    measured: float
    generation: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that a calibration found. `schedule` is the one to use; it carries its provenance.

    Args:
        constraint: what was asked for: `kind` and `value` (`constraints.Constraint`).
        budget: the budget asked for, or that of the chosen schedule where something else was asked for.
        seed: of everything drawn.
        num_visual: V of the calibration samples, from which keep fractions were made.
        text_tokens: other tokens of a typical prompt (median).
        samples: digests and sizes of both sets.
        versions: of what computed it.
        original: the unpruned model on the selection set: `exact` and `score` (or None) and `cost`.
        observation: what the scores tell about the unpruned model on the calibration samples, layer by layer.
        table: every drop alone, by layer, keep count and rule.
        candidates: whole schedules on the calibration set, least loss first.
        forecasts: the same beside their forecasts, in the order in which they were tried.
        ranking: how well the forecast ranked the programme's sets (`forecast.RankAgreement`).
        selection: on the selection set: finalists, the paper's schedule where it can meet the budget, the rivals that
            can, controls.
        chosen: name of the chosen entry of `selection`.
        comparisons: every other method of `selection` held against the chosen schedule, sample by sample.
        violations: limits on subsets that a finalist broke, as text, by its name.
        curve: loss over budgets.
        overflowed: names of schedules that were left out because their logits were not finite, sorted.
    """

    schedule: Schedule
    constraint: dict[str, Any]
    budget: float
    seed: int
    num_visual: int
    text_tokens: int
    samples: dict[str, Any]
    versions: dict[str, str]
    original: dict[str, Any]
    observation: Observation
    table: tuple[TableEntry, ...]
    candidates: tuple[Measured, ...]
    forecasts: tuple[Forecast, ...]
    ranking: dict[str, Any]
    selection: tuple[Measured, ...]
    chosen: str
    comparisons: tuple[Comparison, ...]
    violations: dict[str, list[str]]
    curve: tuple[CurvePoint, ...]
    overflowed: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of `calibration.json`: sorted keys and no times, so that equal runs are equal bytes."""
        return to_json(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "calibration") -> "Calibration":
        """Parse `calibration.json`. Raises InputError that names `source`."""
        try:
            data = from_json(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise InputError(
                    f"{source}: schema_version {data['schema_version']!r} is not known here (this vitcop reads "
                    f"{SCHEMA_VERSION})"
                )
            data["schedule"] = _schedule(data["schedule"], source)
            data["observation"] = Observation.from_json(data["observation"], source=source)
            data["table"] = tuple(
                TableEntry(**{**item, "choice": choice_from(item["choice"]), "kl": Estimate(**item["kl"])})
                for item in data["table"]
            )
            data["forecasts"] = tuple(Forecast(**item) for item in data["forecasts"])
            data["comparisons"] = tuple(Comparison(**item) for item in data["comparisons"])
            for name in ("candidates", "selection"):
                data[name] = tuple(_measured(item, source) for item in data[name])
            data["curve"] = tuple(
                CurvePoint(
                    **{**item, "measured": _measured(item["measured"], source), "loss": Interval(**item["loss"])}
                )
                for item in data["curve"]
            )
            data["overflowed"] = tuple(data["overflowed"])
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
    return Schedule.from_json(to_json(data), source=source)


def _measured(data: dict[str, Any], source: str) -> Measured:
    estimates = {
        name: None if data.get(name) is None else Estimate(**data[name]) for name in ("kl", "top1", "exact", "score")
    }
    return Measured(
        **{
            **data,
            **estimates,
            "schedule": None if data["schedule"] is None else _schedule(data["schedule"], source),
            "group_counts": tuple(data["group_counts"]),
            "choices": tuple(map(choice_from, data["choices"])),
        }
    )
