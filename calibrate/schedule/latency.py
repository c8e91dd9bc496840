"""How long a prefill takes, forecast from measured times: cost.json and what follows from it. No torch.

`vitcop bench --cost-table` times probes on a target and fits coefficients (`latency_fit`). A forecast is a
sum of them, over layers and drops. For V visual tokens in the prompt, K behind the vision
stage, T other tokens, and S = visual tokens in a layer + T:

    vision      tower·V/V₀ + projector·K + score·V/V₀ + clusters + clusters²·K² (+ quantile²·K²)
    prefill     fixed + embedding·S₀ + Σ layers (token·S + pair·S² + Σ knees beyond·max(0, S − knee))
    drops       Σ drops, by score, and once more by `merge`: drop + drop.token·V + drop.pair·V²

V₀ are the visual tokens of the prompt that was timed. What a layer costs whatever its length cannot be told from
`fixed`, since every schedule runs all layers: it is part of `fixed`. All coefficients are at least 0; the knees make
the layer convex and piecewise, as a device is that waits for memory below some length and for arithmetic above.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, get_args

from vitcop.calibrate.core.strict_json import naming, read, read_text, to_json, versioned
from vitcop.calibrate.schedule.choices import TELLS_NOTHING, Rule
from vitcop.calibrate.schedule.schedule import Drop, DropScore, Schedule, VisionScore, VisionStage
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import keep_count

SCHEMA_VERSION = 1

CONTROL = "control"
"""Kind of the scores that look at no token: they cost the same."""

MERGE = "merge"
"""Kind of what merging costs beyond the score that it merges by."""

BASE = {
    "vision.tower": "vision tower and all that its length does not change, of the timed prompt",
    "vision.projector": "visual token behind the vision stage",
    "prefill.fixed": "prefill, whatever its length",
    "prefill.embedding": "token at the input of the language model",
    "layer.token": "token of a decoder layer",
    "layer.pair": "pair of tokens of a decoder layer",
}
"""Coefficients that every table has, and of what one is the time of."""

VISION_KINDS = (*get_args(VisionScore), CONTROL)
DROP_KINDS = (*(score for score in get_args(DropScore) if score not in TELLS_NOTHING), CONTROL, MERGE)

MEANINGS = (
    BASE
    | {f"vision.score.{kind}": f"vision stage by {kind}, of the timed prompt" for kind in VISION_KINDS}
    | {
        "vision.clusters": "clustering, whatever its length",
        "vision.clusters.pair": "pair of clustered tokens",
        "vision.quantile.pair": "pair of clustered tokens, where the cutoff is a quantile, beyond the line above",
    }
    | {f"drop.{kind}": f"drop ({kind}), whatever its length" for kind in DROP_KINDS}
    | {f"drop.{kind}.token": f"visual token before a drop ({kind})" for kind in DROP_KINDS}
    | {f"drop.{kind}.pair": f"pair of visual tokens before a drop ({kind})" for kind in DROP_KINDS}
)
"""All coefficients but those of knees."""

_BEYOND = "layer.beyond."
_AGAIN = "measure again with `vitcop bench --cost-table`"


def kind_of(score: str) -> str:
    """The kind that a score is timed as."""
    return CONTROL if score in TELLS_NOTHING else score


def meaning(name: str) -> str | None:
    """Of what a coefficient is the time; None for a name that no table has."""
    knee = name.removeprefix(_BEYOND)
    if knee != name:
        return f"token of a decoder layer beyond its first {knee}" if knee.isdecimal() and knee != "0" else None
    return MEANINGS.get(name)


def tower_terms(share: float) -> dict[str, float]:
    """What the vision tower is the sum of, for so many times the visual tokens that were timed."""
    return {"vision.tower": share}


def stage_terms(stage: VisionStage | None, num_visual: int, share: float) -> dict[str, float]:
    """What vision stage and projector are the sum of: factor by coefficient."""
    if stage is None:
        return {"vision.projector": num_visual}
    kept = keep_count(num_visual, stage.keep)
    terms = {"vision.projector": kept, f"vision.score.{kind_of(stage.score)}": share}
    if stage.clusters is not None:
        terms |= {"vision.clusters": 1, "vision.clusters.pair": kept**2}
        if stage.clusters.cutoff_quantile is not None:
            terms["vision.quantile.pair"] = kept**2
    return terms


def layer_terms(num_tokens: int, knees: Sequence[int]) -> dict[str, float]:
    """What one decoder layer of so many tokens, text included, is the sum of."""
    terms: dict[str, float] = {"layer.token": num_tokens, "layer.pair": num_tokens**2}
    return terms | {f"{_BEYOND}{knee}": max(0, num_tokens - knee) for knee in knees}


def drop_terms(rule: Rule | Drop, num_visual: int) -> dict[str, float]:
    """What one drop among so many visual tokens is the sum of."""
    kinds = [kind_of(rule.score), *([MERGE] if rule.op == "merge" else [])]
    sizes = {"": 1, ".token": num_visual, ".pair": num_visual**2}
    return {f"drop.{kind}{unit}": size for kind in kinds for unit, size in sizes.items()}


def vision_terms(schedule: Schedule, num_visual: int, share: float) -> dict[str, float]:
    """What the vision graph is the sum of."""
    return tower_terms(share) | stage_terms(schedule.vision, num_visual, share)


def prefill_terms(schedule: Schedule, num_visual: int, text_tokens: int, knees: Sequence[int]) -> dict[str, float]:
    """What the prefill of the language model is the sum of."""
    counts = schedule.group_counts(num_visual)
    parts: list[Mapping[str, float]] = [{"prefill.fixed": 1, "prefill.embedding": counts[0] + text_tokens}]
    parts += [layer_terms(count + text_tokens, knees) for count in schedule.layer_counts(num_visual)]
    parts += [drop_terms(drop, before) for drop, before in zip(schedule.drops, counts, strict=False)]
    terms: dict[str, float] = {}
    for part in parts:
        for name, factor in part.items():
            terms[name] = terms.get(name, 0) + factor
    return terms


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A schedule that was timed and not fitted on.

    Args:
        schedule: its choices, as `Choice.name` writes them.
        num_visual, text_tokens: of the prompt.
        forecast, measured: seconds.
    """

    schedule: str
    num_visual: int
    text_tokens: int
    forecast: float
    measured: float

    def __post_init__(self) -> None:
        for name in ("forecast", "measured"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"{name}: expected a number above 0, found {getattr(self, name)!r}")

    @property
    def error(self) -> float:
        """|forecast − measured| / measured."""
        return abs(self.forecast - self.measured) / self.measured


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """cost.json: measured times of one model on one target, as coefficients.

    Args:
        model_id, config_hash, num_layers: of the model that was timed.
        target, options, dtype: what ran it.
        rows: prompts in a batch; all seconds are of a batch.
        visual_tokens, text_tokens: of the prompt that was timed; the others are cut or lengthened from it.
        machine: facts of the machine.
        settings: repeats, warm-up, seed and number of trials of the measurement.
        coefficients: seconds by name, each at least 0.
        fit_errors: |forecast − measured| / measured of each prompt that was fitted on.
        trials: schedules that were not.
    """

    model_id: str
    config_hash: str
    num_layers: int
    target: str
    options: dict[str, Any]
    dtype: str
    rows: int
    visual_tokens: int
    text_tokens: int
    machine: dict[str, Any]
    settings: dict[str, Any]
    coefficients: dict[str, float]
    fit_errors: tuple[float, ...]
    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        for name in ("num_layers", "rows", "visual_tokens", "text_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a positive integer, found {getattr(self, name)!r}")
        for name in self.coefficients:
            if meaning(name) is None:
                raise InputError(f"coefficients: unknown coefficient {name!r}")
        for name in BASE:
            if name not in self.coefficients:
                raise InputError(f"coefficients: missing coefficient {name!r}")
        _check_numbers((f"coefficients.{name}", value) for name, value in self.coefficients.items())
        _check_numbers((f"fit_errors[{i}]", value) for i, value in enumerate(self.fit_errors))

    # -- forecasts ----------------------------------------------------------------------------------------------------

    def seconds(self, schedule: Schedule, num_visual: int, text_tokens: int) -> float:
        """Seconds of a whole prefill, vision tower included: the sum of the parts below.

        Raises InputError for a schedule of another number of layers, or a score that was not timed.
        """
        if schedule.num_layers != self.num_layers:
            raise InputError(f"the cost table is of {self.num_layers} layers, the schedule of {schedule.num_layers}")
        counts = schedule.group_counts(num_visual)
        return (
            self.input_seconds(schedule.vision, num_visual, text_tokens)
            + sum(self.layer_seconds(count + text_tokens) for count in schedule.layer_counts(num_visual))
            + sum(self.drop_seconds(drop, before) for drop, before in zip(schedule.drops, counts, strict=False))
        )

    def input_seconds(self, stage: VisionStage | None, num_visual: int, text_tokens: int) -> float:
        """Seconds of all that is neither decoder layer nor drop: vision graph, embedding, what is fixed."""
        share = num_visual / self.visual_tokens
        kept = num_visual if stage is None else keep_count(num_visual, stage.keep)
        terms = {"prefill.fixed": 1, "prefill.embedding": kept + text_tokens}
        return self._sum(terms | tower_terms(share) | stage_terms(stage, num_visual, share))

    def layer_seconds(self, num_tokens: int) -> float:
        """Seconds of one decoder layer of so many tokens, text included, without what is part of `fixed`."""
        return self._sum(layer_terms(num_tokens, self.knees))

    def drop_seconds(self, rule: Rule | Drop, num_visual: int) -> float:
        """Seconds of one drop inside the language model, among so many visual tokens."""
        return self._sum(drop_terms(rule, num_visual))

    def interval(self, seconds: float) -> tuple[float, float]:
        """Where the measured time of a forecast lies: the forecast times the least and the greatest measured / forecast
        of the trials. Holds for a new schedule, drawn as the trials were, with probability `coverage`."""
        ratios = [trial.measured / trial.forecast for trial in self.trials]
        return seconds * min(ratios, default=0.0), seconds * max(ratios, default=math.inf)

    @property
    def coverage(self) -> float:
        """Of `interval`: of n + 1 exchangeable ratios the last is neither the least nor the greatest in n − 1 cases."""
        count = len(self.trials)
        return max(0, count - 1) / (count + 1) if count else 1.0

    @property
    def median_error(self) -> float | None:
        """Median relative error of the trials, None where there are none."""
        return median(trial.error for trial in self.trials) if self.trials else None

    @property
    def worst_error(self) -> float | None:
        """Greatest relative error of the trials, None where there are none."""
        return max((trial.error for trial in self.trials), default=None)

    @property
    def knees(self) -> tuple[int, ...]:
        """Lengths at which a layer's time gets steeper."""
        return tuple(sorted(int(name.removeprefix(_BEYOND)) for name in self.coefficients if name.startswith(_BEYOND)))

    def check_model(self, config_hash: str) -> None:
        """Raises InputError where the table is of another model."""
        if config_hash != self.config_hash:
            raise InputError(
                f"the cost table is of model {self.model_id!r} (config {self.config_hash[:12]}), this model has config "
                f"{config_hash[:12]}: {_AGAIN}"
            )

    def _sum(self, terms: Mapping[str, float]) -> float:
        for name in terms:
            if name not in self.coefficients:
                raise InputError(f"the cost table has no time of {meaning(name) or name}: {_AGAIN}")
        return sum(self.coefficients[name] * factor for name, factor in terms.items())

    # -- files --------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The text of cost.json."""
        data = asdict(self) | {
            "schema_version": SCHEMA_VERSION,
            "coefficients": {
                name: {"seconds": value, "each": meaning(name)} for name, value in self.coefficients.items()
            },
            "errors": {
                "fit_median": median(self.fit_errors) if self.fit_errors else None,
                "fit_worst": max(self.fit_errors, default=None),
                "trials_median": self.median_error,
                "trials_worst": self.worst_error,
                "interval": list(self.interval(1.0)) if self.trials else None,
                "interval_coverage": self.coverage,
            },
        }
        return to_json(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "cost.json") -> "CostTable":
        """Parse cost.json. Raises InputError that names `source` and what is wrong."""
        data = versioned(text, source, SCHEMA_VERSION)
        del data["schema_version"]
        data.pop("errors", None)  # they follow from the rest
        with naming(source):
            entries = read(dict[str, _Coefficient], data.get("coefficients"), "coefficients")
            return read(cls, data | {"coefficients": {name: entry.seconds for name, entry in entries.items()}})

    @classmethod
    def load(cls, path: str | Path) -> "CostTable":
        """Read cost.json. Raises InputError where it cannot be read or holds no cost table."""
        return cls.from_json(read_text(path), source=str(path))


@dataclass(frozen=True, kw_only=True)
class _Coefficient:
    """As it stands in the file."""

    seconds: float
    each: str


def _check_numbers(values: Iterable[tuple[str, float]]) -> None:
    for name, value in values:
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name}: expected a number of at least 0, found {value!r}")
