"""`vitcop report`."""

from typing import Any

import click

from vitcop.pipeline.commands.options import PATH, json_option, settings_options, taken
from vitcop.pipeline.settings import ReportSettings


@click.command(name="report", short_help="Write report.html from the results of a run.")
@click.argument("folder", type=PATH, metavar="OUT_DIR")
@click.option("--data", type=PATH, metavar="FILE.jsonl", help="Verified samples, to show with their kept patches.")
@settings_options(ReportSettings)
@json_option()
def command(folder: str, data: str | None, as_json: bool, **given: Any) -> None:
    """Write OUT_DIR/report.html from the results of a run. What is missing is said in the report."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.report import report

    path = report(folder, taken(ReportSettings, given), data=data)
    Console(as_json=as_json).result({"report": str(path)}, f"report: {path}")
