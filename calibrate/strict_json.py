"""JSON as RFC 8259 has it: Python's own also writes and reads NaN and Infinity, which no other reader takes.

A loss that is infinite is null in JSON (`Losses.to_json`), and infinite again when it is read.
"""

import json
from typing import Any, NoReturn


def to_json(value: Any, *, indent: int | None = None) -> str:
    """One text for equal values: keys are sorted. Raises ValueError where a number is not finite."""
    return json.dumps(value, indent=indent, sort_keys=True, allow_nan=False)


def from_json(text: str) -> Any:
    """The value. Raises ValueError where the text is not JSON."""
    return json.loads(text, parse_constant=_refuse)


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are texts."""
    return from_json(to_json(value))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
