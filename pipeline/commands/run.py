"""`vitcop run`."""

import click

from vitcop.pipeline.commands.options import PATH, json_option, out_option


def _print_reference(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from vitcop.pipeline.recipe_reference import recipe_reference

        click.echo(recipe_reference(), nl=False)
        ctx.exit()


@click.command(name="run", short_help="Run a whole recipe, reusing what still holds.")
@click.argument("recipe", type=PATH)
@out_option("Folder of the results; a second run reuses what still holds.")
@click.option("--dry-run", is_flag=True, help="Only print which stages would run, and why.")
@click.option(
    "--keys",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_reference,
    help="Print all keys of a recipe and stop.",
)
@json_option()
def command(recipe: str, out: str, dry_run: bool, as_json: bool) -> None:
    """Run a whole RECIPE: calibrate, export, build, verify, bench, report.

    Writes schedule.json, calibration.json, bundle/, build.json, verify.json, bench.json and report.html.
    Ends with exit status 3 where a gate failed; the report is written all the same.
    """
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.running import run
    from vitcop.plugins.errors import GateError

    console = Console(as_json=as_json)
    result = run(recipe, out, dry_run=dry_run, console=console)
    if dry_run:
        lines = [f"{step.stage:<10}{step.action:<7}{step.reason}" for step in result.steps]
        console.result(result.to_dict(), "\n".join(lines))
        return
    verdict = {True: "PASSED", False: "FAILED", None: "NOT VERIFIED"}[result.passed]
    console.result(result.to_dict(), f"report: {result.out / 'report.html'}\n{verdict}")
    if result.passed is False:
        raise GateError(f"a gate failed; see {result.out / 'verify.json'} and the report")
