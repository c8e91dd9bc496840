"""The gates that a bundle must pass: their limits, and what came of them."""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitcop.calibrate.stats.intervals import MIN_GROUPS, paired_bootstrap
from vitcop.plugins.errors import InputError

LOGIT_LIMITS = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 5e-1}
"""Default limit on the absolute logit deviation by the float type of the graphs. Only the fp32 one is a promise of
exactness: in the shorter types PyTorch and the engine round differently at every step."""

LAYER_LIMITS = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 4e-1}
"""Default limit on the deviation of a layer's keys and values, as a share of the largest of them, by float type."""

MIN_SUBSET = 20
"""Subsets with fewer samples are shown but not held against the baseline: their intervals mean little."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits; None switches a gate off (and the verdict lists it as not held).

    Args:
        logit_deviation: greatest absolute deviation of the engine's logits from those of pruned PyTorch; "auto" is
            `LOGIT_LIMITS`.
        layer_deviation: greatest deviation of a layer's keys and values from those of pruned PyTorch, as a share of the
            largest of that layer; "auto" is `LAYER_LIMITS`. A value that is not finite fails even where it is off.
        kept_differing: samples in which the engine may keep other tokens than PyTorch, near-ties apart.
        answers_differing: samples in which greedy answers of engine and pruned PyTorch may differ, near-ties apart.
        near_tie_share: greatest share of samples that may be near-ties.
        score_loss: greatest loss of task score by the schedule (original − pruned, absolute). Held against the lower
            end of the paired 95 % interval: the gate fails where the loss is surely above the limit. Not judged on
            samples of fewer than `MIN_GROUPS` images.
    """

    logit_deviation: float | Literal["auto"] | None = "auto"
    layer_deviation: float | Literal["auto"] | None = "auto"
    kept_differing: float | None = 0
    answers_differing: float | None = 0
    near_tie_share: float | None = 0.01
    score_loss: float | None = 0.05

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or (value == "auto" and item.name in ("logit_deviation", "layer_deviation")):
                continue
            if type(value) not in (int, float) or not value >= 0:
                raise InputError(f"gates.{item.name}: expected a number of at least 0, or null, found {value!r}")

    @classmethod
    def of(cls, limits: "Gates | Mapping[str, Any] | None") -> "Gates":
        """The default gates with some limits changed by name. Raises InputError for an unknown name."""
        if isinstance(limits, Gates):
            return limits
        known = [item.name for item in dataclasses.fields(cls)]
        for name in limits or {}:
            if name not in known:
                raise InputError(f"gates: no gate {name!r} (known: {', '.join(known)})")
        return cls(**(limits or {}))

    def logit_limit(self, dtype: str) -> float | None:
        """The limit on logits for graphs of a float type."""
        return LOGIT_LIMITS[dtype] if self.logit_deviation == "auto" else self.logit_deviation

    def layer_limit(self, dtype: str) -> float | None:
        """The limit on keys and values for graphs of a float type."""
        return LAYER_LIMITS[dtype] if self.layer_deviation == "auto" else self.layer_deviation


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate: measured value, limit, and whether it passed (None: not held, `note` says why)."""

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    note: str = ""


def at_most(name: str, value: float, limit: float | None, note: str = "") -> GateResult:
    """A gate that passes where the value is at most the limit; a NaN fails."""
    if limit is None:
        return GateResult(name=name, value=value, limit=None, passed=None, note="switched off")
    return GateResult(name=name, value=value, limit=limit, passed=bool(value <= limit), note=note)


def layer_gate(value: float | None, limit: float | None) -> GateResult:
    """The gate on keys and values; None is not held, and what is not finite fails whatever the limit."""
    name, note = "layer_deviation", "relative to the largest key or value of the layer"
    if value is None:
        return GateResult(name=name, value=None, limit=limit, passed=None, note="no sample could be compared")
    if not math.isfinite(value):
        return GateResult(name=name, value=value, limit=limit, passed=False, note="a key or value is not finite")
    return at_most(name, value, limit, note)


def score_loss_gate(loss: Mapping[str, float] | None, limit: float | None, num_groups: int) -> GateResult:
    """The gate on the loss of task score; `loss` is its paired interval over samples of `num_groups` images."""
    name = "score_loss"
    if loss is None:
        return GateResult(name=name, value=None, limit=limit, passed=None, note="no sample has an answer")
    note = f"loss {loss['mean']:+.4f}, 95 % interval {loss['low']:+.4f} to {loss['high']:+.4f}; its lower end is held"
    if limit is not None and num_groups < MIN_GROUPS:
        note = f"not judged: {num_groups} groups, fewer than {MIN_GROUPS}; loss {loss['mean']:+.4f}"
        return GateResult(name=name, value=loss["low"], limit=limit, passed=None, note=note)
    return at_most(name, loss["low"], limit, note)


def weights_gate(changed: Sequence[str]) -> GateResult:
    """Fails where weight shards no longer have the bytes of the export; there is no limit to change."""
    note = f"weights changed since export: {', '.join(changed)}" if changed else ""
    return GateResult(name="weights_changed", value=len(changed), limit=0, passed=not changed, note=note)


def baseline_gates(
    rows: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
    groups: Sequence[Hashable],
    *,
    digest: str,
    settings: Mapping[str, Any],
    seed: int,
) -> list[GateResult]:
    """Regression gates: nothing may be worse than in an earlier verify.json beyond the paired interval.

    Held are the engine's task score, over all samples and in each subset of at least `MIN_SUBSET`, and the share of
    its answers that equal the original's. Raises InputError where the baseline is of other samples or settings.
    """
    try:
        found = baseline["samples"]["digest"]
        theirs = {row["id"]: row for row in baseline["rows"]}
        before = {name: baseline["settings"][name] for name in ("metric", "max_new_tokens")}
        missing = [row["id"] for row in rows if row["id"] not in theirs]
    except (KeyError, TypeError):
        raise InputError("the baseline is not the verify.json of this version; verify the older bundle again") from None
    if found != digest or missing:
        raise InputError(
            "the baseline was measured on other samples; give the same --data, or verify the older bundle again"
        )
    for name, value in before.items():
        if value != settings[name]:
            raise InputError(
                f"the baseline was measured with {name} {value}, not {settings[name]}; use the same settings"
            )

    results = []
    pairs = [(row, theirs[row["id"]], group) for row, group in zip(rows, groups, strict=True)]
    scored = [pair for pair in pairs if pair[0]["scores"] and pair[1].get("scores")]
    parts = {"": scored} if scored else {}
    for name in sorted({row["subset"] for row, _, _ in scored if row["subset"] is not None}):
        members = [pair for pair in scored if pair[0]["subset"] == name]
        if len(members) >= MIN_SUBSET:
            parts[f", {name}"] = members
    for name, members in parts.items():
        results.append(_not_worse(f"baseline: score{name}", members, lambda row: row["scores"]["engine"], seed))
    results.append(
        _not_worse(
            "baseline: same answer as the original", pairs, lambda row: float(row["same_as_original"]["engine"]), seed
        )
    )
    return results


def _not_worse(name: str, pairs: Sequence[Any], of: Any, seed: int) -> GateResult:
    """Fails where the whole interval of ours − theirs lies below zero; the value is its upper end."""
    try:
        ours, theirs = [of(row) for row, _, _ in pairs], [of(row) for _, row, _ in pairs]
        interval = paired_bootstrap(ours, theirs, [group for _, _, group in pairs], seed=seed)
    except (KeyError, TypeError, ValueError):
        raise InputError("the baseline is not the verify.json of this version; verify the older bundle again") from None
    note = f"change {interval.mean:+.4f}, 95 % interval {interval.low:+.4f} to {interval.high:+.4f}; fails below 0"
    return GateResult(name=name, value=interval.high, limit=0.0, passed=interval.high >= 0, note=note)
