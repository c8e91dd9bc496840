"""Which scores tell what, layer by layer: from the observation of a calibration to two small charts."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.strict_json import read
from vitcop.pipeline.reporting.model import ScoreCell, ScoreGrid
from vitcop.pipeline.reporting.svg import WIDTH, figure, rect, text

if TYPE_CHECKING:
    from vitcop.calibrate.observe.observation import Agreement, Observation

NAMES = {
    "vision_saliency": "class attention",
    "vision_saliency/mean_query": "mean query",
    "vision_saliency/key_norm": "vision key norm",
    "vision_saliency/key_diversity": "key diversity",
    "k_norm": "K-norm",
    "k_norm/mean_norm": "mean K-norm",
    "text_query": "last text query",
    "uniform": "control: uniform",
    "random": "control: random",
}
"""Scores as the page calls them."""

LEFT, RIGHT, ROW, BOTTOM = 126, 4, 26, 42
TONES = 5
WIDE = 34
"""Least width of a cell that has its number written into it."""


def score_grids(calibration: Mapping[str, Any] | None) -> tuple[ScoreGrid, ...]:
    """Rank agreement and held share; nothing where nothing was observed."""
    if calibration is None or not calibration.get("observation"):
        return ()
    from vitcop.calibrate.observe.observation import Observation

    observation = read(Observation, calibration["observation"], "observation")
    if not observation.agreements:
        return ()
    return (
        _grid(
            observation,
            _rank_cell,
            title="Rank agreement",
            unit="Spearman’s correlation of the score with what the answer depends on",
        ),
        _grid(
            observation,
            _share_cell,
            title="Held by the first ninth",
            unit="share of what the answer depends on, %",
        ),
    )


def score_note(calibration: Mapping[str, Any] | None) -> str:
    """How far the attention that the charts rest on agrees with its check; empty where it was not checked."""
    observation = (calibration or {}).get("observation") or {}
    means = [check["rank"]["mean"] for check in observation.get("checks", ())]
    if not means:
        return ""
    return (
        f"Attention ranks the tokens as gradient × input does with a correlation of {min(means):.2f} to "
        f"{max(means):.2f}, layer by layer, on {observation['num_checked']} of the {observation['num']} samples."
    )


def _grid(
    observation: "Observation", cell: "Callable[[Observation, Agreement], ScoreCell]", *, title: str, unit: str
) -> ScoreGrid:
    from vitcop.calibrate.observe.observation import ATTENTION, columns_of, inside_name

    entries = [item for item in observation.agreements if item.dependence == ATTENTION]
    cells = {(inside_name(item), item.layer): cell(observation, item) for item in entries}
    rows = tuple(
        (NAMES.get(name, name), tuple(cells.get((name, layer)) for layer in observation.layers))
        for name in columns_of(entries)
    )
    return ScoreGrid(title=title, unit=unit, layers=observation.layers, rows=rows)


def _rank_cell(observation: "Observation", item: "Agreement") -> ScoreCell:
    from vitcop.calibrate.schedule.score_names import LARGEST, SMALLEST, rule_of

    sign = 0
    for order, value in ((LARGEST, 1), (SMALLEST, -1)):
        if observation.ranks_better(item.layer, rule_of(item.score, order)):
            sign = value
    rank = item.rank
    return ScoreCell(
        # Short, since there may be many layers: .33, −.10.
        value=f"{round(rank.mean, 2) + 0.0:.2f}".replace("-", "−").replace("0.", ".", 1),
        sign=sign,
        strength=abs(rank.mean) / 0.4,
        note=f"{rank.mean:+.3f} (95 %: {rank.low:+.3f} to {rank.high:+.3f})".replace("-", "−"),
    )


def _share_cell(observation: "Observation", item: "Agreement") -> ScoreCell:
    from vitcop.calibrate.observe.observation import RANDOM
    from vitcop.calibrate.schedule.score_names import LARGEST, SMALLEST, rule_of

    order = LARGEST if item.largest.mean >= item.smallest.mean else SMALLEST
    rule, end = rule_of(item.score, order), getattr(item, order)
    random = observation.held(item.layer, RANDOM).mean
    more = observation.holds_more(item.layer, rule)
    return ScoreCell(
        value=f"{100 * end.mean:.0f}",
        sign=(1 if order == LARGEST else -1) if more else 0,
        strength=(end.mean / random - 1) / 3 if random else 0.0,
        note=f"{order} first {100 * end.mean:.1f} % (95 %: {100 * end.low:.1f} to {100 * end.high:.1f}), "
        f"random {100 * random:.1f} %",
    )


def draw_score_grid(grid: ScoreGrid) -> str:
    """A row for each score and a column for each drop point; colour tells which end matters, and how much."""
    count = len(grid.layers)
    height = ROW * len(grid.rows) + BOTTOM
    width = (WIDTH - LEFT - RIGHT) / count
    marks = []
    for i, (name, cells) in enumerate(grid.rows):
        top = i * ROW
        marks.append(text(LEFT - 8, top + 17, name, "tick", "end"))
        for j, cell in enumerate(cells):
            if cell is None:
                continue
            x = LEFT + j * width
            said = f"{name}, before layer {grid.layers[j]}: {cell.note}"
            gap = min(2.0, width / 8)
            marks.append(rect(x + gap / 2, top + 1, width - gap, ROW - 2, _css(cell), said))
            if width >= WIDE:
                marks.append(text(x + width / 2, top + 17, cell.value, "cell" if cell.sign else "tick", "middle"))
    every = max(1, -(-count // 16))
    marks += [
        text(LEFT + (j + 0.5) * width, height - BOTTOM + 16, str(layer), "tick", "middle")
        for j, layer in enumerate(grid.layers)
        if j % every == 0
    ]
    marks.append(text((LEFT + WIDTH - RIGHT) / 2, height - 4, "drop before decoder layer", "axis", "middle"))
    return figure(height, marks, f"{grid.title}: {grid.unit}, by score and decoder layer")


def _css(cell: ScoreCell) -> str:
    if not cell.sign:
        return "tells-nothing"
    tone = min(TONES, max(1, round(cell.strength * TONES)))
    return f"{'tells-large' if cell.sign > 0 else 'tells-small'} tone-{tone}"
