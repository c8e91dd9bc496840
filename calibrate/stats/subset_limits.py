"""Limits on what a schedule may lose on named parts of the samples: text reading, counting, grounding collapse first.

The rule where an interval is wide: the **point estimate** decides. A search that only refused what is surely too bad
(the lower end, as the gate of `verify` does) would let anything pass on a small subset, and one that asked for surety
(the upper end) would refuse everything there. The interval is told beside it, and `sure` says whether its lower end
is above the limit too. No torch.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitcop.calibrate.stats.intervals import MIN_GROUPS, Interval, paired_bootstrap
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SubsetLimit:
    """What may be lost at most on the samples of one subset.

    Args:
        subset: `Sample.subset`.
        max_drop: greatest mean loss: of task score (original − pruned, a share of 1: 0.02 are two points), or of KL
            in nats.
        measure: "score" or "kl".
    """

    subset: str
    max_drop: float
    measure: Literal["score", "kl"] = "score"

    def __post_init__(self) -> None:
        if self.measure not in ("score", "kl"):
            raise InputError(f"limit on subset {self.subset!r}: measure {self.measure!r} is not one of score, kl")
        if type(self.max_drop) not in (int, float) or not self.max_drop >= 0:
            raise InputError(
                f"limit on subset {self.subset!r}: max_drop must be a number of at least 0, found {self.max_drop!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A limit that is not kept: `drop` with its 95 % interval; `sure` where all of that is above the limit, and rests
    on at least `MIN_GROUPS` clusters."""

    limit: SubsetLimit
    drop: Interval
    sure: bool


def violations(
    pruned: Mapping[str, Mapping[str, float]],
    original: Mapping[str, Mapping[str, float]],
    limits: Sequence[SubsetLimit],
    *,
    subsets: Mapping[str, str | None],
    clusters: Mapping[str, Hashable],
    seed: int = 0,
) -> list[Violation]:
    """The limits that a schedule breaks, in the order given.

    Args:
        pruned, original: by measure, the value of each sample by id (`Losses.by_id`).
        subsets, clusters: of each sample id.

    Raises InputError where a limit names a subset of which no sample was measured.
    """
    found = []
    for limit in limits:
        ours, theirs = original[limit.measure], pruned[limit.measure]
        ids = [sample for sample in ours if subsets[sample] == limit.subset]
        if not ids:
            known = sorted({name for sample in ours if (name := subsets[sample]) is not None})
            raise InputError(
                f"limit on subset {limit.subset!r}: no sample of it has a {limit.measure}; there are "
                f"{', '.join(known) or 'no subsets'}"
            )
        groups = [clusters[sample] for sample in ids]
        sign = 1 if limit.measure == "score" else -1
        drop = paired_bootstrap(
            [sign * ours[sample] for sample in ids], [sign * theirs[sample] for sample in ids], groups, seed=seed
        )
        if drop.mean > limit.max_drop:
            sure = drop.low > limit.max_drop and len(set(groups)) >= MIN_GROUPS
            found.append(Violation(limit=limit, drop=drop, sure=sure))
    return found
