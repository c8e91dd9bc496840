"""The three charts of the report: quality against budget, the staircase of tokens, and where the time goes."""

from vitcop.pipeline.reporting.model import Curve, Staircase, TimeBar
from vitcop.pipeline.reporting.svg import WIDTH, figure, line, mark, path, rect, text, tick_label, ticks

LEFT, RIGHT, TOP = 52, 14, 14
KINDS = {
    "chosen": "chosen schedule",
    "same": "its kind at other budgets",
    "candidate": "other candidates",
    "paper": "paper preset",
    "uniform": "control: uniform",
    "random": "control: random",
}
"""Kinds of points on the curve and what the legend calls them, in the order of drawing reversed."""

_ASIDE = {"paper": -5, "uniform": 5, "random": 10}
"""Kinds measured at the same budgets stand a little apart, so that their error bars can be told from each other."""

PARTS = ("vision tower", "selector", "prefill", "decode")
"""Parts of a time bar, in the order of the road."""


def draw_curve(curve: Curve) -> str:
    """Quality against budget with standard errors."""
    height, bottom = 300, 44
    scale = 100 if curve.percent else 1
    budgets = [point.budget for point in curve.points] or [1.0]
    edges = [y for point in curve.points for y in (point.score - point.error, point.score + point.error)]
    edges += [curve.baseline] if curve.baseline is not None else []
    low, high = min(edges, default=0.0), max(edges, default=1.0)
    margin = 0.1 * ((high - low) or 0.1)
    low, high = (low - margin) * scale, (high + margin) * scale
    left_x, right_x = max(0.0, min(budgets) - 0.05), min(1.0, max(budgets) + 0.05)

    def x_of(budget: float) -> float:
        return LEFT + (budget - left_x) / ((right_x - left_x) or 1) * (WIDTH - LEFT - RIGHT)

    def y_of(score: float) -> float:
        return TOP + (high - score * scale) / ((high - low) or 1) * (height - TOP - bottom)

    marks = []
    for tick in ticks(low, high):
        y = y_of(tick / scale)
        marks += [line(LEFT, y, WIDTH - RIGHT, y, "grid"), text(LEFT - 8, y + 4, tick_label(tick), "tick", "end")]
    for tick in ticks(left_x * 100, right_x * 100, 6):
        x = x_of(tick / 100)
        marks.append(text(x, height - bottom + 20, tick_label(tick), "tick", "middle"))
    if curve.baseline is not None:
        y = y_of(curve.baseline)
        below = curve.baseline <= min(edges)
        marks += [
            line(LEFT, y, WIDTH - RIGHT, y, "baseline"),
            text(LEFT + 2, y + 15 if below else y - 6, "unpruned", "note"),
        ]
    marks += _connections(curve, x_of, y_of)
    for kind in reversed(KINDS):
        for point in (point for point in curve.points if point.kind == kind):
            x, y = x_of(point.budget) + _ASIDE.get(kind, 0), y_of(point.score)
            if point.error:
                marks.append(
                    line(x, y_of(point.score - point.error), x, y_of(point.score + point.error), f"error k-{kind}")
                )
            told = f"{scale * point.score:.4g} ± {scale * point.error:.2g} at budget {100 * point.budget:.1f} %"
            marks.append(mark(kind, x, y, f"point k-{kind}", f"{point.label}: {told}"))
    marks.append(
        text(
            (LEFT + WIDTH - RIGHT) / 2,
            height - 4,
            "budget: mean visual tokens over all layers, % of unpruned",
            "axis",
            "middle",
        )
    )
    return figure(height, marks, f"{curve.unit} against budget")


def _connections(curve: Curve, x_of, y_of) -> list[str]:
    """Lines through the points of a kind that was measured at several budgets."""
    lines = []
    for kind in ("paper", "uniform", "random", "same"):
        points = sorted((point.budget, point.score) for point in curve.points if point.kind == kind)
        if len({budget for budget, _ in points}) > 1:
            aside = _ASIDE.get(kind, 0)
            lines.append(path([(x_of(budget) + aside, y_of(score)) for budget, score in points], f"link k-{kind}"))
    return lines


def draw_staircase(stairs: Staircase) -> str:
    """Visual tokens layer by layer."""
    height, bottom = 260, 44
    layers = len(stairs.counts)

    def x_of(layer: float) -> float:
        return LEFT + layer / layers * (WIDTH - LEFT - RIGHT)

    def y_of(count: float) -> float:
        return TOP + 8 + (1 - count / stairs.num_visual) * (height - TOP - 8 - bottom)

    marks = []
    for tick in ticks(0, stairs.num_visual, 4):
        marks += [
            line(LEFT, y_of(tick), WIDTH - RIGHT, y_of(tick), "grid"),
            text(LEFT - 8, y_of(tick) + 4, tick_label(tick), "tick", "end"),
        ]
    outline = [(x_of(0), y_of(0))]
    for (first, last), count in zip(stairs.groups, stairs.group_counts, strict=True):
        outline += [(x_of(first), y_of(count)), (x_of(last + 1), y_of(count))]
    outline.append((x_of(layers), y_of(0)))
    marks += [path(outline, "stairs", closed=True), path(outline[1:-1], "stairs-edge")]
    marks += [line(x_of(0), y_of(stairs.num_visual), x_of(layers), y_of(stairs.num_visual), "baseline")]
    marks.append(text(WIDTH - RIGHT, y_of(stairs.num_visual) - 6, f"unpruned: {stairs.num_visual}", "note", "end"))
    for (first, last), count in zip(stairs.groups, stairs.group_counts, strict=True):
        middle = (x_of(first) + x_of(last + 1)) / 2
        marks.append(
            text(
                middle,
                y_of(count) - 6 if count < 0.9 * stairs.num_visual else y_of(count) + 18,
                str(count),
                "count",
                "middle",
            )
        )
    every = max(1, -(-layers // 16))
    marks += [
        text(x_of(layer + 0.5), height - bottom + 20, str(layer), "tick", "middle") for layer in range(0, layers, every)
    ]
    marks.append(text((LEFT + WIDTH - RIGHT) / 2, height - 4, "decoder layer", "axis", "middle"))
    return figure(height, marks, f"visual tokens in each decoder layer: {', '.join(map(str, stairs.counts))}")


def draw_times(bars: tuple[TimeBar, ...]) -> str:
    """Time of each variant, stacked by part."""
    row, thick, bottom = 56, 26, 40
    height = row * len(bars) + bottom
    longest = max((bar.length for bar in bars), default=1.0) or 1.0
    unit, scale = ("s", 1e-3) if longest >= 10_000 else ("ms", 1.0)

    def width_of(value: float) -> float:
        return value / longest * (WIDTH - RIGHT - 4)

    marks = []
    for tick in ticks(0, longest * scale, 6):
        x = 4 + width_of(tick / scale)
        marks += [
            line(x, 4, x, height - bottom, "grid"),
            text(x, height - bottom + 18, tick_label(tick), "tick", "middle" if tick else "start"),
        ]
    for i, bar in enumerate(bars):
        top, x = i * row + 6, 4.0
        marks.append(text(4, top + 11, f"{bar.label}: {bar.total * scale:.4g} {unit}", "bar-label"))
        for name, value in bar.parts:
            told = f"{name}: {value * scale:.4g} {unit}"
            marks.append(rect(x, top + 17, width_of(value), thick, f"part-{PARTS.index(name)}", told))
            x += width_of(value)
    marks.append(text(WIDTH / 2, height - 4, unit, "axis", "middle"))
    return figure(height, marks, "; ".join(f"{bar.label}: {bar.total:.4g} ms" for bar in bars))
