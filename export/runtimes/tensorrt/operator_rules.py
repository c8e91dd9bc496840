"""The restrictions of operators.json, one function for each kind: a node in its place, and the rule -> what is wrong.

Each returns (what was found, what is supported), or None where the rule holds. What cannot be read from the graph
counts as found: the check says so rather than hope.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from vitcop.export.runtimes.tensorrt.operator_table import TYPE_NAMES

Dims = tuple[int | None, ...] | None
"""Sizes, None for one that varies; None for a tensor whose rank is unknown."""
Wrong = tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is known of the tensors that a node can see.

    Args:
        types: element type and sizes by name.
        initializers: weights and outputs of Constant nodes; the value where it is small and in the file.
        folded: further tensors that follow from constants alone.
    """

    types: Mapping[str, tuple[int, Dims]]
    initializers: Mapping[str, np.ndarray | None]
    folded: frozenset[str]


class Place:
    """A node and what is known around it."""

    def __init__(self, node: onnx.NodeProto, scope: Scope) -> None:
        self.node, self.scope = node, scope
        self.attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

    def input(self, index: int) -> str:
        """Name of an input, "" where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def output(self, index: int) -> str:
        """Name of an output, "" where it is left out."""
        return self.node.output[index] if index < len(self.node.output) else ""

    def type_name(self, name: str) -> str:
        """The element type in the table's words, or "unknown type"."""
        number, _ = self.scope.types.get(name, (0, None))
        return TYPE_NAMES.get(number, f"type {number}") if number else "unknown type"

    def dims(self, name: str) -> Dims:
        """Sizes of a tensor, None where not even the rank is known."""
        return self.scope.types.get(name, (0, None))[1]

    def rank(self, name: str) -> int | None:
        """Number of axes, or None."""
        dims = self.dims(name)
        return None if dims is None else len(dims)

    def text(self, name: str, default: Any) -> Any:
        """An attribute, bytes as text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def _attributes_absent(place: Place, rule: dict[str, Any]) -> Wrong:
    for name in rule["names"]:
        # The default of every attribute that the table names is 0, and means the same as leaving it out.
        if place.attributes.get(name):
            return f"attribute {name} = {place.text(name, None)}", f"no {name}"
    return None


def _attribute_in(place: Place, rule: dict[str, Any]) -> Wrong:
    value = place.text(rule["name"], rule["default"])
    if value in rule["values"]:
        return None
    return f"{rule['name']} = {value}", f"{rule['name']} {' or '.join(map(str, rule['values']))}"


def _attribute_all(place: Place, rule: dict[str, Any]) -> Wrong:
    values = list(place.attributes.get(rule["name"], ()))
    wrong = any(value != rule["value"] for value in values)
    return (f"{rule['name']} = {values}", f"only {rule['value']} in {rule['name']}") if wrong else None


def _inputs_absent(place: Place, rule: dict[str, Any]) -> Wrong:
    given = [index for index in rule["inputs"] if place.input(index)]
    return (f"input {given[0]} ({place.input(given[0])})", f"no input {given[0]}") if given else None


def _outputs_absent(place: Place, rule: dict[str, Any]) -> Wrong:
    given = [index for index in rule["outputs"] if place.output(index)]
    return (f"output {given[0]} ({place.output(given[0])})", f"no output {given[0]}") if given else None


def _rank(place: Place, rule: dict[str, Any]) -> Wrong:
    for index in rule["inputs"]:
        name = place.input(index)
        if name and (rank := place.rank(name)) not in rule["ranks"]:
            found = f"input {index} ({name}) of {'unknown rank' if rank is None else f'rank {rank}'}"
            return found, f"rank {' or '.join(map(str, rule['ranks']))}"
    return None


def _input_type(place: Place, rule: dict[str, Any]) -> Wrong:
    name = place.input(rule["input"])
    if not name or place.type_name(name) in rule["types"]:
        return None
    return f"{rule['name']} is {place.type_name(name)}", f"{rule['name']} of type {', '.join(rule['types'])}"


def _constant_input(place: Place, rule: dict[str, Any]) -> Wrong:
    name, what = place.input(rule["input"]), rule["name"]
    if not name:
        if rule.get("absent") != "static_shape":
            return None
        dims = place.dims(place.input(0))
        known = dims is not None and None not in dims
        return None if known else (f"no {what}, and an input of dynamic shape", f"{what}, or a static shape")
    constant = name in place.scope.initializers or (rule["how"] == "build_time" and name in place.scope.folded)
    kind = "an initializer" if rule["how"] == "initializer" else "a constant at build time"
    if not constant:
        return f"{what} ({name}) is computed", f"{what} as {kind}"
    if "value" in rule:
        value = place.scope.initializers.get(name)
        if value is None or np.any(value != rule["value"]):
            return f"{what} is {'not in the file' if value is None else value}", f"{what} {rule['value']}"
    return None


def _zero_input(place: Place, rule: dict[str, Any]) -> Wrong:
    name = place.input(rule["input"])
    if not name:
        return None
    value = place.scope.initializers.get(name)
    wrong = value is None or np.any(value != 0)
    return (f"{rule['name']} is {'unknown' if value is None else value}", f"{rule['name']} 0") if wrong else None


def _below(place: Place, rule: dict[str, Any]) -> Wrong:
    name, limit = place.input(rule["input"]), rule["limit"]
    value = place.scope.initializers.get(name)
    if value is None:
        return f"{rule['name']} ({name}) is computed, so it may be {limit} or more", f"{rule['name']} below {limit}"
    return (
        (f"{rule['name']} = {int(np.max(value))}", f"{rule['name']} below {limit}") if np.max(value) >= limit else None
    )


def _static_shape(place: Place, rule: dict[str, Any]) -> Wrong:
    dims = place.dims(place.input(rule["input"]))
    static = dims is not None and None not in dims
    return None if static else (f"input {rule['input']} of dynamic shape", f"input {rule['input']} of static shape")


def _static_axis(place: Place, rule: dict[str, Any]) -> Wrong:
    dims, axis = place.dims(place.input(0)), place.attributes.get(rule["attribute"], rule["default"])
    static = dims is not None and dims[axis] is not None
    return None if static else (f"axis {axis} of dynamic size", f"axis {axis} of static size")


def _last_axis(place: Place, rule: dict[str, Any]) -> Wrong:
    dims = place.dims(place.input(rule["input"]))
    if dims and dims[-1] == rule["size"]:
        return None
    return f"last axis {dims[-1] if dims else 'unknown'}", f"last axis {rule['size']} (real values)"


def _symmetric_pads(place: Place, rule: dict[str, Any]) -> Wrong:
    pads = list(place.attributes.get("pads", ()))
    half = len(pads) // 2
    return None if pads[:half] == pads[half:] else (f"pads = {pads}", "the same pads at both ends of an axis")


def _equal_halves(place: Place, rule: dict[str, Any]) -> Wrong:
    values = [value.decode() for value in place.attributes.get(rule["attribute"], ())]
    half = len(values) // 2
    if place.text(rule["where"], "") != rule["equals"] or values[:half] == values[half:]:
        return None
    return f"{rule['attribute']} = {values}", f"the same {rule['attribute']} in both directions"


def _all_axes(place: Place, rule: dict[str, Any]) -> Wrong:
    axes, rank = place.attributes.get(rule["attribute"]), place.rank(place.input(0))
    if axes is None or (rank is not None and list(axes) == list(range(rank))):
        return None
    return f"{rule['attribute']} = {list(axes)}", "all axes in order"


def _branches(place: Place, rule: dict[str, Any]) -> Wrong:
    sides = [place.attributes[name].output for name in ("then_branch", "else_branch")]
    for one, other in zip(*sides, strict=True):
        shapes = [value.type.tensor_type for value in (one, other)]
        ranks = [len(shape.shape.dim) if shape.HasField("shape") else "unknown" for shape in shapes]
        if ranks[0] != ranks[1] or "unknown" in ranks:
            return f"branches of rank {ranks[0]} and {ranks[1]}", "branches of equal rank"
        if one.name == other.name:
            return f"both branches call their output {one.name}", "different names in the branches"
    return None


def _scan_length(place: Place, rule: dict[str, Any]) -> Wrong:
    carried = len(place.node.input) - 2
    if len(place.node.output) <= carried or place.scope.initializers.get(place.input(0)) is not None:
        return None
    return "scan outputs of a trip count that is not known", "scan outputs of static length"


def _carried_shapes(place: Place, rule: dict[str, Any]) -> Wrong:
    body = place.attributes["body"]
    for before, after in zip(body.input[2:], body.output[1:], strict=False):
        shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (before, after)]
        if shapes[0] != shapes[1]:
            return f"{before.name} {shapes[0]} becomes {shapes[1]}", "loop-carried tensors that keep their shape"
    return None


def _data_dependent(place: Place, rule: dict[str, Any]) -> Wrong:
    return "an output whose length depends on the data", "lengths that follow from shapes (TensorRT takes the others)"


RULES: dict[str, Callable[[Place, dict[str, Any]], Wrong]] = {
    "all_axes": _all_axes,
    "attribute_all": _attribute_all,
    "attribute_in": _attribute_in,
    "attributes_absent": _attributes_absent,
    "below": _below,
    "branches": _branches,
    "carried_shapes": _carried_shapes,
    "constant_input": _constant_input,
    "data_dependent": _data_dependent,
    "equal_halves": _equal_halves,
    "input_type": _input_type,
    "inputs_absent": _inputs_absent,
    "last_axis": _last_axis,
    "outputs_absent": _outputs_absent,
    "rank": _rank,
    "scan_length": _scan_length,
    "static_axis": _static_axis,
    "static_shape": _static_shape,
    "symmetric_pads": _symmetric_pads,
    "zero_input": _zero_input,
}
"""Every kind of rule that operators.json may use."""
