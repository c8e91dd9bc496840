"""`vitcop inspect`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option


@click.command(name="inspect", short_help="Describe a bundle, a model folder or a schedule.")
@click.argument("path", type=PATH)
@json_option()
def command(path: str, as_json: bool) -> None:
    """Describe a bundle, a model folder or a schedule file. No weights are loaded."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.inspection import inspect

    found = inspect(path)
    Console(as_json=as_json).result(found.facts, found.text)
