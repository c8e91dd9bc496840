"""JSON as RFC 8259 has it: Python's own also writes and reads NaN and Infinity, which no other reader takes.

A loss that is infinite is null in JSON (`Losses.to_json`), and infinite again when it is read.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from vitcop.plugins.errors import InputError


def to_json(value: Any, *, indent: int | None = None) -> str:
    """One text for equal values: keys are sorted. Raises ValueError where a number is not finite."""
    return json.dumps(value, indent=indent, sort_keys=True, allow_nan=False)


def from_json(text: str) -> Any:
    """The value. Raises ValueError where the text is not JSON."""
    return json.loads(text, parse_constant=_refuse)


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are texts."""
    return from_json(to_json(value))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError that names it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
