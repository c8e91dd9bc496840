"""What a calibration found: `calibration.json`. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.strict_json import parse, read_text, to_json
from vitcop.calibrate.evaluate.losses import Estimate
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule.choices import Choice
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.stats.intervals import Interval
from vitcop.calibrate.stats.verdict import Comparison

SCHEMA_VERSION = 2


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
        cost: prefill FLOPs and KV bytes of a typical prompt by formula (`vitcop.calibrate.schedule.cost`).
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
        ranking: how well the forecast ranked the best sets by forecast (`forecast.RankAgreement`).
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
        return parse(cls, text, source, version=SCHEMA_VERSION)

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read `calibration.json`. Raises InputError where it cannot be read."""
        return cls.from_json(read_text(path), source=str(path))
