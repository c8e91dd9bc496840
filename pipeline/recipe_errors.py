"""One line for the first thing wrong in a recipe: the dotted key, what was found and expected, the nearest key."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error as one line; how many more there are is said at the end."""
    details = error.errors(include_url=False)
    # A misspelt key often shows twice, as unknown and as missing: the unknown one says more.
    details.sort(key=lambda item: item["type"] != "extra_forbidden")
    first, rest = details[0], len(details) - 1
    return _explain_one(first, model) + (f" (and {rest} more)" if rest else "")


def all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of the recipe in dotted form, sections included, in the order of the file."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        child = section_of(info.annotation)
        if child is not None:
            keys += all_keys(child, f"{prefix}{name}.")
    return keys


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model behind a field's annotation where it is a section."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def nearest(name: str, known: list[str]) -> str | None:
    """The known name most like `name`: by its last part, of equals as a whole; sections have long names in common."""

    def likeness(key: str) -> tuple[float, float]:
        ends = (name.rsplit(".", 1)[-1], key.rsplit(".", 1)[-1])
        return difflib.SequenceMatcher(None, *ends).ratio(), difflib.SequenceMatcher(None, name, key).ratio()

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= 0.6 else None


def _explain_one(detail: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        guess = nearest(key, all_keys(model))
        return f"unknown key `{key}`" + (
            f"; did you mean `{guess}`?" if guess else f"; known here: {_siblings(key, model)}"
        )
    if detail["type"] == "missing":
        return f"`{key}` is missing"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not key:
        return message
    found = "" if "found" in message or detail["type"] == "model_type" else f", found {detail['input']!r}"
    return f"`{key}`: {message}{found}"


def _siblings(key: str, model: type[BaseModel]) -> str:
    parent = key.rpartition(".")[0]
    keys = [name for name in all_keys(model) if name.rpartition(".")[0] == parent]
    return ", ".join(keys) or ", ".join(model.model_fields)
