"""`vitcop report`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option


@click.command(name="report", short_help="Write report.html from the results of a run.")
@click.argument("folder", type=PATH, metavar="OUT_DIR")
@click.option("--data", type=PATH, metavar="FILE.jsonl", help="Verified samples, to show with their kept patches.")
@click.option("--overlays", type=click.IntRange(0, 64), default=6, show_default=True, help="How many of them.")
@click.option("--title", default="", help="Heading; the model's name where left out.")
@json_option()
def command(folder: str, as_json: bool, **settings) -> None:
    """Write OUT_DIR/report.html from the results of a run. What is missing is said in the report."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.report import report

    path = report(folder, **settings)
    Console(as_json=as_json).result({"report": str(path)}, f"report: {path}")
