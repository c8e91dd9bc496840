"""The reference of all recipe keys, made from the classes themselves, so that it cannot go stale."""

import dataclasses
from typing import Any

from vitcop.calibrate.core.settings import meaning
from vitcop.pipeline.recipe import Recipe, sections_of


def recipe_reference() -> str:
    """Every key with its default and meaning, as text that is itself shaped like a recipe."""
    return "\n".join(_lines(Recipe, 0)) + "\n"


def _lines(kind: type, depth: int) -> list[str]:
    indent, lines, sections = "  " * depth, [], sections_of(kind)
    for item in dataclasses.fields(kind):
        section = sections[item.name]
        if section is not None:
            lines += ["", f"{f'{indent}{item.name}:':<33} # {(section.__doc__ or '').splitlines()[0]}"]
            lines += _lines(section, depth + 1)
        else:
            lines.append(f"{f'{indent}{item.name}: {_default(item)}':<33} # {meaning(item)}")
    return lines


def _default(item: dataclasses.Field) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return str(item.default_factory())
    return "<required>" if item.default is dataclasses.MISSING else _text(item.default)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "null" if value is None else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, tuple) else str(value)
