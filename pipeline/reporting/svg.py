"""A few SVG marks as text. Colours are CSS classes, so that a chart follows the page into the dark."""

import math
from html import escape

WIDTH = 480
"""Width of every chart in its own units: about a phone's pixels, so that text stays legible on a narrow page."""


def number(value: float) -> str:
    """A coordinate, short and the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line class="{css}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """A rectangle; `title` shows on hovering."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    box = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return f'<rect class="{css}" {box}>{inner}</rect>'


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text with its baseline at y."""
    return f'<text class="{css}" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">{escape(content)}</text>'


def path(points: list[tuple[float, float]], css: str, *, closed: bool = False) -> str:
    """A polyline, or a polygon where closed."""
    steps = " ".join(f"{'M' if i == 0 else 'L'}{number(x)} {number(y)}" for i, (x, y) in enumerate(points))
    return f'<path class="{css}" d="{steps}{" Z" if closed else ""}"/>'


def mark(kind: str, x: float, y: float, css: str, title: str = "") -> str:
    """A data point. Shape and colour both tell the kind, so that neither is needed alone."""
    size = 9.5 if kind == "chosen" else 4.5
    shapes = {
        "candidate": [(math.cos(a) * 3.5, math.sin(a) * 3.5) for a in (math.pi * i / 6 for i in range(12))],
        "same": [(math.cos(a) * 4.5, math.sin(a) * 4.5) for a in (math.pi * i / 6 for i in range(12))],
        "chosen": [_star(i, size) for i in range(10)],
        "paper": [(-size, -size), (size, -size), (size, size), (-size, size)],
        "random": [(0, -size - 1), (size + 1, size), (-size - 1, size)],
        "uniform": [(0, -size - 1), (size + 1, 0), (0, size + 1), (-size - 1, 0)],
    }
    drawn = path([(x + dx, y + dy) for dx, dy in shapes[kind]], css, closed=True)
    return f"<g>{drawn}<title>{escape(title)}</title></g>" if title else drawn


def _star(i: int, size: float) -> tuple[float, float]:
    radius = size if i % 2 == 0 else size * 0.45
    angle = math.pi * (i / 5 - 0.5)
    return radius * math.cos(angle), radius * math.sin(angle)


def figure(height: float, marks: list[str], label: str) -> str:
    """The whole chart; `label` describes it to those who cannot see it."""
    body = "".join(marks)
    return f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{escape(label)}">{body}</svg>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between low and high, about `count` of them."""
    span = (high - low) or 1.0
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick as text."""
    return f"{value:.10g}"
