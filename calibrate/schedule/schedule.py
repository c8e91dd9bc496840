"""The schedule: where a model drops visual tokens, by which score, and how many it keeps.

This is the one definition of `schedule.json`; it loads without torch. Keep fractions are integers num/den of the visual
tokens present at that point, so they chain: K = V·num // den, at least 1. Ratios shown to people are of the original
count.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vitcop.calibrate.core.strict_json import to_json
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction, keep_count

SCHEMA_VERSION = 1

MAX_INT = 2**31
"""Seeds and the parts of a fraction are below: ops on every runtime take them as 32-bit integers."""

VisionScore = Literal["class_attention", "mean_query", "key_norm", "key_diversity"]
DropOp = Literal["select", "merge"]
DropScore = Literal["k_norm", "text_query", "vision_saliency", "uniform", "random"]
HeadReduction = Literal["mean_key", "mean_norm"]
Order = Literal["smallest", "largest"]
Merge = Literal["sum", "mean"]
Positions = Literal["original", "reindexed"]


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


@dataclass(frozen=True, kw_only=True)
class VisionStage:
    """Stage I: how many visual tokens leave the vision tower, and by which score.

    `class_attention` is for encoders with a class token; `mean_query`, `key_norm` and `key_diversity` exist for every
    encoder. `seed`, in [0, 2³¹), matters to the score "random" alone.
    """

    score: VisionScore | Literal["uniform", "random"] = "class_attention"
    order: Order = "largest"
    keep: Fraction
    clusters: Clusters | None = None
    seed: int = 0


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


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A whole schedule for one model. Immutable; compare and hash by value."""

    num_layers: int
    model_id: str = ""
    config_hash: str = ""
    vision: VisionStage | None = None
    drops: tuple[Drop, ...] = ()
    positions: Positions = "original"
    provenance: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _validate(self)

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
        return tuple(range(a, b) for a, b in zip(cuts, cuts[1:], strict=False))

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

    @classmethod
    def from_json(cls, text: str, *, source: str = "schedule") -> "Schedule":
        """Parse `schedule.json`. Raises InputError that names `source` and the field."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{source}: not JSON (line {error.lineno}: {error.msg})") from None
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets nested as deep
            raise InputError(f"{source}: not a schedule ({error})") from None
        if not isinstance(data, dict):
            raise InputError(f"{source}: expected a JSON object, found {type(data).__name__}")
        version = data.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise InputError(
                f"{source}: schema_version {version!r} is not known here (this vitcop reads {SCHEMA_VERSION})"
            )
        try:
            return _build(cls, data, source)
        except InputError as error:
            raise error if str(error).startswith(source) else InputError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> "Schedule":
        """Read a schedule file. Raises InputError where it cannot be read or does not hold a schedule."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot read the schedule ({error})") from None
        return cls.from_json(text, source=str(path))


_CHILDREN = {"vision": VisionStage, "clusters": Clusters, "drops": Drop}
_CHOICES = {
    "op": get_args(DropOp),
    "head_reduction": get_args(HeadReduction),
    "order": get_args(Order),
    "merge": get_args(Merge),
    "positions": get_args(Positions),
}


def _build(cls: type, data: Any, where: str) -> Any:
    """Make a dataclass of the tree from plain JSON, refusing unknown keys and wrong shapes by name."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object, found {type(data).__name__}")
    known = {item.name: item for item in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r} (known: {', '.join(known)})")
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("keep", "centers"):
            if not (isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)):
                raise InputError(f"{where}.{key}: expected [num, den] of two integers, found {value!r}")
            value = tuple(value)
        elif key == "drops":
            if not isinstance(value, list):
                raise InputError(f"{where}.drops: expected a list, found {type(value).__name__}")
            value = tuple(_build(Drop, item, f"{where}.drops[{i}]") for i, item in enumerate(value))
        elif key in _CHILDREN and value is not None:
            value = _build(_CHILDREN[key], value, f"{where}.{key}")
        values[key] = value
    missing = [
        name
        for name, item in known.items()
        if name not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: missing key {missing[0]!r}")
    return cls(**values)


def check_seed(where: str, value: Any) -> None:
    """Raises InputError that names `where`, where the value is not an integer in [0, 2³¹)."""
    if type(value) is not int or not 0 <= value < MAX_INT:
        raise InputError(f"{where}: expected an integer from 0 to {MAX_INT - 1}, found {value!r}")


def _validate(schedule: Schedule) -> None:
    if type(schedule.num_layers) is not int or schedule.num_layers < 1:
        raise InputError(f"num_layers: expected a positive integer, found {schedule.num_layers!r}")
    for name, kind, said in (
        ("model_id", str, "a text"),
        ("config_hash", str, "a text"),
        ("provenance", dict, "an object"),
        ("drops", tuple, "a list"),
        ("vision", VisionStage | None, "an object or null"),
    ):
        if not isinstance(getattr(schedule, name), kind):
            raise InputError(f"{name}: expected {said}, found {getattr(schedule, name)!r}")
    try:
        to_json(schedule.provenance)
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance: expected what JSON can hold ({error})") from None
    _check_choice("positions", schedule.positions)
    stages: list[tuple[str, VisionStage | Drop]] = [("vision", schedule.vision)] if schedule.vision else []
    stages += [(f"drops[{i}]", drop) for i, drop in enumerate(schedule.drops)]
    for where, stage in stages:
        _check_fraction(f"{where}.keep", stage.keep)
        check_seed(f"{where}.seed", stage.seed)
        scores = get_args(DropScore) if isinstance(stage, Drop) else (*get_args(VisionScore), "uniform", "random")
        if stage.score not in scores:
            raise InputError(f"{where}.score: {stage.score!r} is not one of {', '.join(scores)}")
    if schedule.vision:
        _check_choice("vision.order", schedule.vision.order)
    clusters = schedule.vision.clusters if schedule.vision else None
    if clusters:
        _check_clusters(clusters)
    last = 0
    for i, drop in enumerate(schedule.drops):
        for name in ("op", "head_reduction", "order", "merge"):
            _check_choice(f"drops[{i}].{name}", getattr(drop, name))
        if type(drop.layer) is not int or not last < drop.layer < schedule.num_layers:
            raise InputError(
                f"drops[{i}].layer: {drop.layer!r} must be above {last} and below the number of layers "
                f"({schedule.num_layers})"
            )
        last = drop.layer
        if drop.op == "merge" and (i > 0 or clusters is None):
            raise InputError(
                f"drops[{i}]: a merge must be the first drop and needs vision.clusters, whose labels it merges by"
            )
        if drop.score == "vision_saliency" and (
            schedule.vision is None or schedule.vision.score not in get_args(VisionScore)
        ):
            raise InputError(f"drops[{i}].score: vision_saliency needs a vision stage that computes it")


def _check_choice(where: str, value: Any) -> None:
    choices = _CHOICES[where.rsplit(".", 1)[-1]]
    if value not in choices:
        raise InputError(f"{where}: {value!r} is not one of {', '.join(choices)}")


def _check_fraction(where: str, value: Fraction) -> None:
    if not (isinstance(value, tuple) and len(value) == 2 and all(type(part) is int for part in value)):
        raise InputError(f"{where}: expected (num, den) of two integers, found {value!r}")
    num, den = value
    if not 0 < num <= den:
        raise InputError(f"{where}: {num}/{den} must be above 0 and at most 1")
    if den >= MAX_INT:
        raise InputError(f"{where}: {num}/{den} must have parts below {MAX_INT}")


def _check_clusters(clusters: Clusters) -> None:
    where = "vision.clusters"
    _check_fraction(f"{where}.centers", clusters.centers)
    if (clusters.cutoff_distance is None) == (clusters.cutoff_quantile is None):
        raise InputError(f"{where}: give exactly one of cutoff_distance and cutoff_quantile")
    distance, quantile, radius = clusters.cutoff_distance, clusters.cutoff_quantile, clusters.spatial_radius
    if distance is not None and not (_is_number(distance) and distance > 0):
        raise InputError(f"{where}.cutoff_distance: expected a number above 0, found {distance!r}")
    if quantile is not None and not (_is_number(quantile) and 0 < quantile < 1):
        raise InputError(f"{where}.cutoff_quantile: expected a number between 0 and 1, found {quantile!r}")
    if not (_is_number(radius) and radius >= 0):
        raise InputError(f"{where}.spatial_radius: expected a number of at least 0, found {radius!r}")


def _is_number(value: Any) -> bool:
    """Within fp32, in which ops take it; NaN is none."""
    return type(value) in (int, float) and abs(value) < 1e38
