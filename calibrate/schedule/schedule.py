"""The schedule: where a model drops visual tokens, by which score, and how many it keeps.

This is the one definition of `schedule.json`; it loads without torch. Keep fractions are integers num/den of the visual
tokens present at that point, so they chain: K = V·num // den, at least 1. Ratios shown to people are of the original
count.
"""

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from vitcop.calibrate.core.strict_json import check_fields, parse, plain, read_text, to_json
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction, keep_count

SCHEMA_VERSION = 1

MAX_INT = 2**31
"""Seeds and the parts of a fraction are below: ops on every runtime take them as 32-bit integers."""

MAX_FLOAT = 1e38
"""Distances are below: ops take them as fp32."""

VisionScore = Literal["class_attention", "mean_query", "key_norm", "key_diversity"]
DropOp = Literal["select", "merge"]
DropScore = Literal["k_norm", "text_query", "vision_saliency", "uniform", "random"]
HeadReduction = Literal["mean_key", "mean_norm"]
Order = Literal["smallest", "largest"]
Merge = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Density-peak clustering of the tokens that the vision stage keeps (design: operation 2).

    Args:
        centers: C = max(1, K·num // den) cluster centres for K tokens.
        cutoff_distance: d_c of the density kernel, in units of the key projections; or None to use `cutoff_quantile`.
        cutoff_quantile: d_c as this quantile of the pairwise distances, in (0, 1).
        spatial_radius: greatest grid distance of a denser neighbour, on coordinates in [0, 1).
    """

    centers: Fraction
    cutoff_distance: float | None = 8.0
    cutoff_quantile: float | None = None
    spatial_radius: float = 0.6

    def __post_init__(self) -> None:
        check_fields(self)
        _check_fraction("centers", self.centers)
        distance, quantile = self.cutoff_distance, self.cutoff_quantile
        if (distance is None) == (quantile is None):
            raise InputError("give exactly one of cutoff_distance and cutoff_quantile")
        if distance is not None and not 0 < distance < MAX_FLOAT:
            raise InputError(f"cutoff_distance: expected a number above 0, found {distance!r}")
        if quantile is not None and not 0 < quantile < 1:
            raise InputError(f"cutoff_quantile: expected a number between 0 and 1, found {quantile!r}")
        if not 0 <= self.spatial_radius < MAX_FLOAT:
            raise InputError(f"spatial_radius: expected a number of at least 0, found {self.spatial_radius!r}")


@dataclass(frozen=True, kw_only=True)
class VisionStage:
    """Stage I: how many visual tokens leave the vision tower, and by which score.

    `class_attention` is for encoders with a class token; `mean_query`, `key_norm` and `key_diversity` exist for every
    encoder. `seed`, in [0, 2³¹), matters to the score "random" alone.
    """

    score: Literal[VisionScore, "uniform", "random"] = "class_attention"
    order: Order = "largest"
    keep: Fraction
    clusters: Clusters | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_stage(self)


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Visual tokens are dropped before decoder layer `layer` (0-based, at least 1).

    `op` is "select" (pruning: keep K) or "merge" (combine by clusters down to K; with order "largest" the scores are
    negated first, since the op keeps what scores least). `seed`, in [0, 2³¹), matters to the score "random" alone.
    """

    layer: int
    op: DropOp = "select"
    score: DropScore = "k_norm"
    head_reduction: HeadReduction = "mean_key"
    order: Order = "smallest"
    keep: Fraction
    merge: Merge = "sum"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_stage(self)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A whole schedule for one model. Immutable; compare and hash by value.

    `positions` says that tokens keep the position ids that they had before any drop.
    """

    num_layers: int
    model_id: str = ""
    config_hash: str = ""
    vision: VisionStage | None = None
    drops: tuple[Drop, ...] = ()
    positions: Literal["original"] = "original"
    provenance: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_layers < 1:
            raise InputError(f"num_layers: expected a positive integer, found {self.num_layers!r}")
        try:
            to_json(self.provenance)
        except (TypeError, ValueError) as error:
            raise InputError(f"provenance: expected what JSON can hold ({error})") from None
        last = 0
        for i, drop in enumerate(self.drops):
            if not last < drop.layer < self.num_layers:
                raise InputError(
                    f"drops[{i}].layer: {drop.layer!r} must be above {last} and below the number of layers "
                    f"({self.num_layers})"
                )
            last = drop.layer
            if drop.op == "merge" and (i > 0 or self.vision is None or self.vision.clusters is None):
                raise InputError(
                    f"drops[{i}]: a merge must be the first drop and needs vision.clusters, whose labels it merges by"
                )
            if drop.score == "vision_saliency" and (
                self.vision is None or self.vision.score not in get_args(VisionScore)
            ):
                raise InputError(f"drops[{i}].score: vision_saliency needs a vision stage that computes it")

    # -- what follows from it -----------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """True where nothing is dropped anywhere."""
        return self.vision is None and not self.drops

    @property
    def groups(self) -> tuple[range, ...]:
        """Layer groups cut by the drop points: all layers of a group see the same tokens and have the same KV
        length."""
        cuts = [0, *(drop.layer for drop in self.drops), self.num_layers]
        return tuple(range(a, b) for a, b in pairwise(cuts))

    def vision_count(self, num_visual: int) -> int:
        """Visual tokens at LLM input, of `num_visual` that the unpruned model has."""
        return num_visual if self.vision is None else keep_count(num_visual, self.vision.keep)

    def group_counts(self, num_visual: int) -> tuple[int, ...]:
        """Visual tokens in each layer group, of `num_visual` that the unpruned model has."""
        counts = [self.vision_count(num_visual)]
        for drop in self.drops:
            counts.append(keep_count(counts[-1], drop.keep))
        return tuple(counts)

    def layer_counts(self, num_visual: int) -> tuple[int, ...]:
        """Visual tokens present in each of the L decoder layers."""
        counts = self.group_counts(num_visual)
        return tuple(count for count, group in zip(counts, self.groups, strict=True) for _ in group)

    def budget(self, num_visual: int) -> float:
        """Mean over all decoder layers of (visual tokens present) / (visual tokens of the unpruned model)."""
        return sum(self.layer_counts(num_visual)) / (self.num_layers * num_visual) if num_visual else 1.0

    # -- files --------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The text of `schedule.json`: sorted keys, so that equal schedules are equal bytes."""
        return to_json(dataclasses.asdict(self), indent=2) + "\n"

    def plain(self) -> dict[str, Any]:
        """What the schedule decides, as JSON values: without its provenance and the model that it was made for."""
        decided = dataclasses.replace(self, provenance={}, model_id="", config_hash="")
        return plain(dataclasses.asdict(decided))

    @classmethod
    def from_json(cls, text: str, *, source: str = "schedule") -> "Schedule":
        """Parse `schedule.json`. Raises InputError that names `source` and the key."""
        return parse(cls, text, source, version=SCHEMA_VERSION)

    @classmethod
    def load(cls, path: Path) -> "Schedule":
        """Read a schedule file. Raises InputError where it cannot be read or does not hold a schedule."""
        return cls.from_json(read_text(path), source=str(path))


def check_seed(where: str, value: Any) -> None:
    """Raises InputError that names `where`, where the value is not an integer in [0, 2³¹)."""
    if type(value) is not int or not 0 <= value < MAX_INT:
        raise InputError(f"{where}: expected an integer from 0 to {MAX_INT - 1}, found {value!r}")


def _check_stage(stage: VisionStage | Drop) -> None:
    check_fields(stage)
    _check_fraction("keep", stage.keep)
    check_seed("seed", stage.seed)


def _check_fraction(where: str, value: Fraction) -> None:
    num, den = value
    if not 0 < num <= den:
        raise InputError(f"{where}: {num}/{den} must be above 0 and at most 1")
    if den >= MAX_INT:
        raise InputError(f"{where}: {num}/{den} must have parts below {MAX_INT}")
