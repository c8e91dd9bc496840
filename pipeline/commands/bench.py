"""`vitcop bench`."""

import click

from vitcop.pipeline.commands.options import (
    PATH,
    attention_option,
    engine_options,
    json_option,
    out_option,
    target_options,
)


@click.command(name="bench", short_help="Time the engine, pruned and unpruned.")
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FILE.jsonl", help="Samples whose prompts are timed.")
@target_options
@click.option(
    "--model", type=PATH, metavar="MODEL_DIR", help="The checkpoint; the one that the bundle names where left out."
)
@click.option(
    "--unpruned", type=PATH, metavar="BUNDLE", help="A bundle of the same model without dropping, to compare with."
)
@click.option("--compare-torch/--no-compare-torch", default=True, show_default=True, help="Also time PyTorch.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Prompts of one batch.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Tokens decoded after each prefill.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Timed repetitions.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=2, show_default=True, help="Repetitions that are not counted."
)
@attention_option
@out_option("Where bench.json is written.", required=False)
@json_option()
def command(
    bundle: str, data: str, device: str | None, extra: tuple[str, ...], out: str | None, as_json: bool, **settings
) -> None:
    """Time the engine of a BUNDLE, pruned and unpruned, part by part."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.bench import bench, bench_table

    console = Console(as_json=as_json)
    found = bench(
        bundle,
        data,
        options=engine_options(device, extra),
        device=device or "cpu",
        out=out,
        console=console,
        **settings,
    )
    console.result(found.to_dict(), bench_table(found))
