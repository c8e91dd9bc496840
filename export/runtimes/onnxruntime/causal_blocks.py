"""Attention of a prefill in blocks of queries, so that little of the masked half is computed.

ONNX Runtime's Attention on the CPU multiplies every query with every key and masks afterwards. In a prefill no query
looks beyond its own column, so block i of n needs the keys of blocks 0 … i alone: (n + 1) / 2n of the products. Rows
that are padding and masked altogether come out differently; nothing reads them.

Dropped tokens keep their order, so this holds in every layer group. A bundle's own graph is not touched: GPU kernels
and TensorRT want the one node.
"""

from typing import Any

BLOCKS = 8
SHORTEST = 256
"""Tokens from which on blocks pay: below, calls cost more than the masked half."""

_PREFIX = "causal_blocks."


def cut_into_causal_blocks(model: Any) -> None:
    """Replace, in place, each Attention with a mask [B,1,S,S] over its own S tokens by `If(S ≥ SHORTEST, its blocks,
    itself)`.

    Args:
        model: the ModelProto of a prefill graph.
    """
    from onnx import helper

    nodes, cuts = [], {}
    for node in model.graph.node:
        if node.op_type != "Attention" or node.domain or len(node.input) < 4:
            nodes.append(node)
            continue
        mask, name = node.input[3], node.output[0]
        if mask not in cuts:
            cuts[mask] = _Cut(mask)
            nodes += cuts[mask].nodes
        blocks = cuts[mask].blocks(node)
        node.output[0] = f"{_PREFIX}{name}.whole"
        branches = {"then_branch": _graph("blocks", blocks), "else_branch": _graph("whole", [node])}
        nodes.append(helper.make_node("If", [cuts[mask].is_long], [name], name=f"{_PREFIX}{name}", **branches))
    if cuts:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(_numbers())


class _Cut:
    """Where the blocks of one mask begin and end, the rows of the mask that each sees, and the nodes that tell."""

    def __init__(self, mask: str) -> None:
        from onnx import helper

        prefix = f"{_PREFIX}{mask}."
        self.is_long, length, edges = prefix + "is_long", prefix + "length", prefix + "edges"
        self.edges = [f"{edges}.{i}" for i in range(BLOCKS + 1)]
        self.masks = [f"{prefix}mask.{i}" for i in range(BLOCKS)]
        node = helper.make_node
        self.nodes = [
            node("Shape", [mask], [length], start=3, end=4),
            node("Squeeze", [length], [prefix + "count"]),
            node("GreaterOrEqual", [prefix + "count", _PREFIX + "shortest"], [self.is_long]),
            node("Mul", [length, _PREFIX + "steps"], [prefix + "product"]),
            node("Div", [prefix + "product", _PREFIX + "blocks"], [edges]),
            node("Split", [edges], self.edges, axis=0, num_outputs=BLOCKS + 1),
        ]
        for i, seen in enumerate(self.masks):
            rows = f"{seen}.rows"
            self.nodes.append(node("Slice", [mask, *self.edges[i : i + 2], _PREFIX + "axis_rows"], [rows]))
            self.nodes.append(node("Slice", [rows, self.edges[0], self.edges[i + 1], _PREFIX + "axis_columns"], [seen]))

    def blocks(self, attention: Any) -> list[Any]:
        """The nodes that compute this Attention block by block; the last one gives its output."""
        from onnx import helper

        query, key, value = attention.input[:3]
        nodes, outputs = [], []

        def part(source: str, begin: str, end: str, name: str) -> str:
            nodes.append(helper.make_node("Slice", [source, begin, end, _PREFIX + "axis_rows"], [name]))
            return name

        for i, (begin, end, seen) in enumerate(zip(self.edges, self.edges[1:], self.masks, strict=False)):
            prefix = f"{_PREFIX}{attention.output[0]}.{i}."
            rows = part(query, begin, end, prefix + "query")
            reached = [part(source, self.edges[0], end, prefix + source) for source in (key, value)]
            outputs.append(prefix + "output")
            block = helper.make_node("Attention", [rows, *reached, seen], outputs[-1:], name=prefix + "attention")
            block.attribute.extend(attention.attribute)
            nodes.append(block)
        joined = f"{_PREFIX}{attention.output[0]}.joined"
        return [*nodes, helper.make_node("Concat", outputs, [joined], axis=2)]


def _graph(name: str, nodes: list[Any]) -> Any:
    """A branch of an If; its result is what its last node gives."""
    from onnx import helper

    return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info(nodes[-1].output[0])])


def _numbers() -> list[Any]:
    """The constants that the nodes above name."""
    import numpy as np
    from onnx import numpy_helper

    numbers = {
        "steps": range(BLOCKS + 1),
        "blocks": [BLOCKS],
        "axis_rows": [2],
        "axis_columns": [3],
        "shortest": SHORTEST,
    }
    return [numpy_helper.from_array(np.array(value, dtype=np.int64), _PREFIX + name) for name, value in numbers.items()]
