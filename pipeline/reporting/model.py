"""What the page shows, as plain data: filled from the result files by `collect`, drawn by the template and the charts.

A part that is None was not measured; the page then says so.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Score:
    """A task score in [0, 1] with its standard error."""

    mean: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key number: what it is, the number, and a line of context."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate: what was measured against which limit; `passed` is None where it was not held, and `note` says why."""

    name: str
    measured: str
    limit: str
    passed: bool | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One schedule that was measured.

    Args:
        budget: mean share of visual tokens over all layers.
        score: quality on the selection samples, in the unit of the curve.
        error: standard error of it.
        kind: "chosen", "same" (the chosen kind at another budget), "candidate", "paper", "uniform" or "random".
    """

    label: str
    budget: float
    score: float
    error: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Quality against budget. `baseline` is the unpruned model's; `percent` draws shares as per cent."""

    points: tuple[CurvePoint, ...]
    title: str
    unit: str
    baseline: float | None = None
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreCell:
    """One score before one layer: the number as text, and a longer `note`. `sign` is 1 where large scores matter, −1
    where small ones do, 0 where random does as well; `strength` is 0 for random and about 1 for much."""

    value: str
    sign: int
    strength: float
    note: str


@dataclass(frozen=True, kw_only=True)
class ScoreGrid:
    """Scores by layer: for each score its name and a cell for each of the layers, None where it does not exist."""

    title: str
    unit: str
    layers: tuple[int, ...]
    rows: tuple[tuple[str, tuple[ScoreCell | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """Visual tokens in each decoder layer; `stages` says for each layer group how its tokens were chosen."""

    counts: tuple[int, ...]
    num_visual: int
    groups: tuple[tuple[int, int], ...]
    group_counts: tuple[int, ...]
    stages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TimeBar:
    """One variant's median time in milliseconds, part by part in the order of the road, and of whole answers.

    Medians of parts need not add up to the median of the whole.
    """

    label: str
    parts: tuple[tuple[str, float], ...]
    total: float

    @property
    def length(self) -> float:
        """All parts together: how long the bar is drawn."""
        return sum(value for _, value in self.parts)


@dataclass(frozen=True, kw_only=True)
class TimeRow:
    """One variant's (median, quartiles) in ms, as text: vision tower, selector, prefill, one decode step, all."""

    label: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One quantity, unpruned and pruned, as text, with the share that is left."""

    label: str
    unpruned: str
    pruned: str
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class RungRow:
    """Task scores of one subset, one for each rung; `loss` is original − pruned with its 95 % interval."""

    subset: str
    count: int
    scores: tuple[Score, ...]
    loss: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on the selection samples: its KL and its task score (None without answers); `difference` is its KL −
    that of the chosen schedule, with the paired 95 % interval, and `verdict` what follows (both of the method)."""

    name: str
    budget: float
    kl: Score
    score: Score | None
    difference: tuple[float, float, float] | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One distance: as the price of the method (original, pruned) and as our own error (pruned, engine)."""

    label: str
    schedule: str
    export: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One stage of an overlay: what is kept after it, and the picture as a data URI."""

    caption: str
    picture: str


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One sample: its question, the answers of the rungs that were measured, and the kept patches at each stage."""

    sample: str
    question: str
    expected: str
    answers: tuple[tuple[str, str], ...]
    frames: tuple[Frame, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole page."""

    title: str
    passed: bool | None
    sentence: str
    tiles: tuple[Tile, ...] = ()
    gates: tuple[GateRow, ...] | None = None
    losses: tuple[LossRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    methods: tuple[MethodRow, ...] = ()
    score_grids: tuple[ScoreGrid, ...] = ()
    score_note: str = ""
    staircase: Staircase | None = None
    times: tuple[TimeBar, ...] | None = None
    time_rows: tuple[TimeRow, ...] = ()
    time_notes: tuple[str, ...] = ()
    costs: tuple[CostRow, ...] = ()
    cost_note: str = ""
    rungs: tuple[str, ...] = ()
    subsets: tuple[RungRow, ...] | None = None
    overlays: tuple[Overlay, ...] = ()
    overlay_note: str = ""
    provenance: tuple[tuple[str, str], ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
