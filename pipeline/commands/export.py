"""`vitcop export`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option, out_option


@click.command(name="export", short_help="Write a bundle of ONNX graphs for a schedule.")
@click.argument("model", type=PATH, metavar="MODEL_DIR")
@click.option(
    "--schedule",
    type=PATH,
    required=True,
    metavar="FILE|PRESET",
    help="A schedule file, or paper-1/3, paper-2/9, paper-1/9, none.",
)
@out_option("The bundle's folder.")
@click.option("--copy-weights", is_flag=True, help="Copy the weights into the bundle, so that it can be moved.")
@json_option()
def command(model: str, schedule: str, out: str, copy_weights: bool, as_json: bool) -> None:
    """Rewrite the graph of MODEL_DIR for a schedule and write a bundle of ONNX files."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.export import export

    console = Console(as_json=as_json)
    bundle = export(model, schedule, out, copy_weights=copy_weights, console=console)
    console.result({"bundle": str(bundle)}, f"bundle: {bundle}")
