"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from vitcop.plugins.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path()
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")


def json_option() -> Decorator:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


def out_option(help_text: str, *, required: bool = True) -> Decorator:
    """-o OUT."""
    return click.option("-o", "--out", type=PATH, required=required, metavar="PATH", help=help_text)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--target, --device and --option."""
    function = click.option(
        "--option", "extra", multiple=True, metavar="NAME=VALUE", help="Another option of the target; may be repeated."
    )(function)
    function = click.option(
        "--device", metavar="cpu|cuda", help="Where the engine runs; the target's own default where left out."
    )(function)
    return click.option("--target", default="onnxruntime", show_default=True, help="The runtime.")(function)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--device, --dtype and --attn: where and how the PyTorch model runs."""
    function = attention_option(function)
    function = click.option(
        "--dtype", metavar="fp32|fp16|bf16", default="fp32", show_default=True, help="Float type of the PyTorch model."
    )(function)
    return click.option(
        "--device", metavar="cpu|cuda", default="cpu", show_default=True, help="Where the PyTorch model runs."
    )(function)


def batch_size_option(default: int) -> Decorator:
    """--batch-size."""
    return click.option(
        "--batch-size", type=click.IntRange(min=1), default=default, show_default=True, help="Prompts of one batch."
    )


def metric_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--metric."""
    return click.option(
        "--metric",
        default="exact_match",
        show_default=True,
        help="Task score: exact_match, vqa_accuracy, anls, multiple_choice.",
    )(function)


def attention_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--attn."""
    return click.option(
        "--attn",
        type=click.Choice(ATTENTIONS),
        default="sdpa",
        show_default=True,
        help="Attention of the PyTorch model; flash_attention_2 needs flash-attn and a GPU.",
    )(function)


def executor_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--executor and --workers."""
    function = click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Share the work among N processes (or Ray actors), each with the model loaded and, on GPUs, one of its "
        "own. The result is the same for any N.",
    )(function)
    return click.option(
        "--executor",
        type=click.Choice(("local", "ray")),
        default="local",
        show_default=True,
        help="Where the work is done: on this machine, or by Ray at $RAY_ADDRESS (without one: a Ray started here).",
    )(function)


def shard_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--shard and --merge."""
    function = click.option(
        "--merge",
        "merged",
        type=PATH,
        multiple=True,
        metavar="PATH",
        help="A partial table, or a folder of them; may be repeated. Needs the options that the shards were run with.",
    )(function)
    return click.option(
        "--shard",
        metavar="i/n",
        help="Measure the i-th of n shares of the table, write partial-i-of-n.json and stop; see --merge.",
    )(function)


def engine_options(device: str | None, extra: tuple[str, ...]) -> dict[str, Any]:
    """--device and --option as plain values by name. Raises InputError for an option without a value."""
    values: dict[str, Any] = {"device": device} if device else {}
    for item in extra:
        name, found, value = item.partition("=")
        if not found or not name:
            raise InputError(f"--option {item!r}: expected NAME=VALUE")
        values[name] = _plain(value)
    return values


def _plain(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
