"""Options that several commands share."""

from collections.abc import Callable, Collection
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from vitcop.calibrate.core.settings import meaning
from vitcop.calibrate.core.strict_json import read
from vitcop.pipeline.settings import EngineSettings
from vitcop.plugins.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path()


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


class Listed(click.ParamType):
    """Values with commas between, for a setting that is a tuple."""

    name = "value,…"

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return read(self.kind, [None if part == "null" else part for part in value.split(",") if part])
        except InputError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Read(click.ParamType):
    """One value, as a recipe has it."""

    def __init__(self, kind: Any, name: str) -> None:
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return read(self.kind, value)
        except InputError as error:
            self.fail(str(error), param, ctx)


def settings_options(kind: type, *, without: Collection[str] = ()) -> Decorator:
    """An option for each field of a settings class, its meaning the help text; mappings and settings within settings
    are left out. The command gets them by the names of the fields: see `taken`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(kind, include_extras=True)
        for item in reversed(fields(kind)):
            hint = hints[item.name]
            if item.name not in without and get_origin(hint) is not dict and not is_dataclass(hint):
                function = _option(item, hint)(function)
        return function

    return decorate


def taken(kind: type, given: dict[str, Any], **more: Any) -> Any:
    """The settings that options gave, which are taken out of `given`; `more` are those that have no option. Raises
    InputError."""
    names = [item.name for item in fields(kind) if item.name in given]
    return kind(**{name: given.pop(name) for name in names}, **more)


def _option(item: Field, hint: Any) -> Decorator:
    flag, text = f"--{item.name.replace('_', '-')}", _sentence(meaning(item))
    hint = next((each for each in get_args(hint) if type(None) in get_args(hint) and each is not type(None)), hint)
    shown: dict[str, Any] = {"default": item.default, "show_default": item.default is not None, "help": text}
    if hint is bool:
        if item.default:
            return click.option(f"{flag}/--no-{flag[2:]}", **shown)
        return click.option(flag, is_flag=True, help=text)
    if get_origin(hint) is Literal:
        return click.option(flag, type=click.Choice(get_args(hint)), **shown)
    if get_origin(hint) is tuple:
        shown["show_default"] = ",".join(map(_shown, shown["default"]))
        return click.option(flag, type=Listed(hint), **shown)
    if hint is int:
        least, most = item.metadata["least"], item.metadata["most"]
        return click.option(flag, type=click.IntRange(least, most), **shown)
    if hint is float:
        return click.option(flag, type=click.FloatRange(item.metadata["least"], item.metadata["most"]), **shown)
    if hint is str:
        return click.option(flag, **shown)
    return click.option(flag, type=Read(hint, "path" if Path in get_args(hint) else "number"), **shown)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


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


def measured_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--data, and what is measured on it and against what; see `measured_engine`."""
    function = settings_options(EngineSettings, without=("target", "options", "device"))(function)
    function = target_options(function)
    return click.option("--data", type=PATH, required=True, metavar="FILE.jsonl", help="The samples.")(function)


def measured_engine(given: dict[str, Any]) -> EngineSettings:
    """The engine that these options name, which are taken out of `given`. Raises InputError."""
    device = given.pop("device")
    options = engine_options(device, given.pop("extra"))
    return taken(EngineSettings, given, options=options, device=device or "cpu")


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
