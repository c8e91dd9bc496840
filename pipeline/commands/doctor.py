"""`vitcop doctor`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option


@click.command(name="doctor", short_help="Show what this machine has and what it lacks.")
@click.option(
    "--recipe",
    type=PATH,
    metavar="FILE",
    help="Ask for what this recipe needs; exit status 4 where something is missing.",
)
@json_option()
def command(recipe: str | None, as_json: bool) -> None:
    """Show what this machine has, what each missing part is needed for, and what to install."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.doctor import examine
    from vitcop.pipeline.recipe import load_recipe
    from vitcop.plugins.errors import MissingError

    needs = load_recipe(recipe) if recipe else None
    found = examine(needs)
    Console(as_json=as_json).result(found.to_dict(), found.table())
    if found.missing:
        raise MissingError("missing: " + "; ".join(f"{row.name} ({row.remedy})" for row in found.missing))
