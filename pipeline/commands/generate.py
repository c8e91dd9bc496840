"""`vitcop generate`."""

import click

from vitcop.pipeline.commands.options import PATH, engine_options, json_option, target_options


@click.command(name="generate", short_help="Answer a prompt about images.")
@click.argument("bundle", type=PATH)
@click.option("--image", "images", type=PATH, multiple=True, metavar="FILE", help="An image; may be repeated.")
@click.option("--video", type=PATH, metavar="PATH", help="A video: a folder of frames, or an animated image.")
@click.option("--prompt", required=True, metavar="TEXT", help="The question; <image> or <video> says where it goes.")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer, in tokens."
)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option(
    "--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="Draw among so many tokens; 0 for all."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw among tokens of this probability together.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the drawing.")
@target_options
@json_option()
def command(
    bundle: str,
    images: tuple[str, ...],
    prompt: str,
    device: str | None,
    extra: tuple[str, ...],
    as_json: bool,
    **settings,
) -> None:
    """Answer a prompt about images or a video (or of text alone) with a BUNDLE; the answer goes to stdout."""
    from vitcop.pipeline.console import Console
    from vitcop.pipeline.steps.generate import generate

    answer = generate(bundle, images, prompt, options=engine_options(device, extra), **settings)
    Console(as_json=as_json).result(answer.to_dict(), answer.text)
