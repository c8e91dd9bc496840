"""From the page's data to its HTML: one file with styles, charts and pictures inside; no script, nothing fetched."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from vitcop.pipeline.reporting.charts import KINDS, PARTS, draw_curve, draw_staircase, draw_times
from vitcop.pipeline.reporting.model import Report
from vitcop.pipeline.reporting.numbers import percent, points
from vitcop.pipeline.reporting.score_grid import draw_score_grid
from vitcop.pipeline.reporting.svg import mark

_HERE = Path(__file__).parent


def render(report: Report) -> str:
    """The page. Equal reports give equal bytes: nothing in it depends on when or where it is made."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    drawn = {point.kind for curve in report.curves for point in curve.points}
    stairs = report.staircase
    return environment.get_template("page.html.j2").render(
        report=report,
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        verdict={True: "PASSED", False: "FAILED", None: "NOT VERIFIED"}[report.passed],
        verdict_class={True: "ok", False: "bad", None: "none"}[report.passed],
        curves=[(curve, Markup(draw_curve(curve))) for curve in report.curves],
        grids=[(grid, Markup(draw_score_grid(grid))) for grid in report.score_grids],
        kinds=[(kind, name) for kind, name in KINDS.items() if kind in drawn],
        legend_mark=lambda kind: Markup(mark(kind, 0, 0, f"point k-{kind}")),
        staircase=Markup(draw_staircase(stairs)) if stairs else "",
        stages=list(zip(stairs.stages, stairs.group_counts, strict=True)) if stairs else [],
        times=Markup(draw_times(report.times)) if report.times else "",
        parts=PARTS,
        percent=percent,
        points=points,
    )
