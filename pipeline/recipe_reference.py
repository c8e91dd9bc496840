"""The reference of all recipe keys, made from the models themselves, so that it cannot go stale."""

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vitcop.pipeline.recipe import Recipe
from vitcop.pipeline.recipe_errors import section_of


def recipe_reference() -> str:
    """Every key with its default and description, as text that is itself shaped like a recipe."""
    return "\n".join(_lines(Recipe, 0)) + "\n"


def _lines(model: type[BaseModel], depth: int) -> list[str]:
    indent, lines = "  " * depth, []
    for name, info in model.model_fields.items():
        child = section_of(info.annotation)
        if child is not None:
            lines += ["", f"{indent}{name}:".ljust(34) + f"# {(child.__doc__ or '').splitlines()[0]}"]
            lines += _lines(child, depth + 1)
            continue
        lines.append(f"{indent}{name}: {_default(info)}".ljust(34) + f"# {info.description}")
    return lines


def _default(info: Any) -> str:
    if info.is_required():
        return "<required>"
    value = info.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    if value is None or value == "":
        return "null" if value is None else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if value != 1 / 3 else "1/3"
    return str(value)
