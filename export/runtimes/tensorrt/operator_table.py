"""The table of operators.json: what TensorRT's ONNX parser takes in a release, as data with its sources inside."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Release = Literal["10.15", "11"]
RELEASES: tuple[Release, ...] = ("10.15", "11")

TABLE_PATH = Path(__file__).parent / "operators.json"

TYPE_NAMES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "STRING",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    14: "COMPLEX64",
    15: "COMPLEX128",
    16: "BF16",
    17: "FP8",
    22: "INT4",
    23: "FP4",
}
"""ONNX's numbers of element types, in the table's words. Numbers that are not here appear as numbers."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator.

    Args:
        types: element types of what it computes with.
        inputs, outputs: indices of the tensors that `types` speaks of; None: the first input and all that shares its
            type variable.
        rules: restrictions as plain data, see operator_rules.
    """

    types: frozenset[str]
    inputs: tuple[int, ...] | None
    outputs: tuple[int, ...] | None
    rules: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What one release takes.

    Args:
        release: "10.15" or "11" (11.0, so all of 11.x).
        opsets: least and greatest opset of the default domain.
        max_rank: most axes of a tensor.
        operators: by ONNX op type; None where the release is known not to take it.
    """

    release: Release
    opsets: tuple[int, int]
    max_rank: int
    operators: dict[str, Operator | None]


@cache
def load_table(release: Release) -> Table:
    """The table of a release. Raises KeyError for a release that the file does not have."""
    data = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    facts = data["releases"][release]
    operators: dict[str, Operator | None] = dict.fromkeys(data["not_supported"])
    operators |= {name: _operator(entry) for name, entry in data["operators"].items()}
    if release == "11":
        # What came with 11.1 or later an engine of 11.0 would not parse.
        changes = [change for change in data["changes_in_11"] if change["since"] == "11.0"]
        operators |= {change["operator"]: _operator(change) for change in changes}
    return Table(
        release=release, opsets=tuple(facts["opsets"]), max_rank=data["limits"]["max_rank"], operators=operators
    )


def _operator(entry: dict[str, Any]) -> Operator:
    typed = entry.get("typed")
    return Operator(
        types=frozenset(entry["types"]),
        inputs=None if typed is None else tuple(typed.get("inputs", ())),
        outputs=None if typed is None else tuple(typed.get("outputs", ())),
        rules=tuple(entry.get("rules", ())),
    )
