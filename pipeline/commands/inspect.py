"""`vitcop inspect`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option


@click.command(name="inspect", short_help="Describe a bundle, a model folder or a schedule.")
@click.argument("path", type=PATH)
@click.option(
    "--image-size",
    metavar="WIDTHxHEIGHT",
    help="Also tell how many visual tokens an image of this size has (model folders and bundles).",
)
@json_option()
def command(path: str, image_size: str | None, as_json: bool) -> None:
    """Describe a bundle, a model folder or a schedule file. No weights are loaded."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.inspection import inspect

    found = inspect(path, image_size=image_size)
    Console(as_json=as_json).result(found.facts, found.text)
