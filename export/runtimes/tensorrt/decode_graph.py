"""The decode graph with its attention taken out, so that TensorRT's own cache and attention layers can stand there.

decode.onnx joins past and new keys by Concat, so each step writes a cache that is one token longer. TensorRT can write
the new token into a cache of fixed length instead, but no standard ONNX node says all of that: the layers are added
through its network API. So the graph is cut at each Attention: query, new keys and new values become outputs, and what
the attention gives becomes an input. `kv_cache.join` puts layers between them and takes the cut away again.

Pure ONNX; needs no TensorRT.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import onnx

AXIS = 2
"""The axis of keys and values [B,Nkv,P,D] along which tokens stand."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One attention that was taken out of the graph.

    Args:
        layer: its decoder layer.
        group: the layer group, which says whose lengths it goes by.
        query: output of the cut graph [B,Nh,1,D], already multiplied by the attention's scale.
        new_key, new_value: outputs of the cut graph [B,Nkv,1,D].
        attended: input of the cut graph [B,Nh,1,D].
    """

    layer: int
    group: int
    query: str
    new_key: str
    new_value: str
    attended: str


def cut_attention(model: "onnx.ModelProto") -> tuple[Cut, ...]:
    """Take every Attention, its caches and masks out of a decode graph, in place.

    Afterwards the graph has the inputs `input_ids`, `position_ids`, `attended_i` and the outputs `logits`, `query_i`,
    `new_key_i`, `new_value_i`. Raises InputError where an attention is not what the export writes.
    """
    from onnx import helper

    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    shapes = {item.name: item.type.tensor_type for item in graph.input}
    cuts, gone, scales = [], set[str](), {}
    for node in [node for node in graph.node if node.op_type == "Attention" and not node.domain]:
        layer, joins = _joins(node, made)
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        _check_attributes(attributes, layer, node)
        for name in (f"past_key_{layer}", "input_ids"):
            if name not in shapes:
                raise InputError(f"decode graph: it has no input {name}; export the bundle again")
        past = shapes[f"past_key_{layer}"]
        head_dim = past.shape.dim[3].dim_value
        group = _group(node, made, layer)
        cut = Cut(
            layer=layer,
            group=group,
            query=f"query_{layer}",
            new_key=f"new_key_{layer}",
            new_value=f"new_value_{layer}",
            attended=f"attended_{layer}",
        )
        scale = attributes.get("scale", head_dim**-0.5)
        scales[layer] = scale
        batch = shapes["input_ids"].shape.dim[0].dim_param
        heads = _query_heads(node, model)
        kv_heads = past.shape.dim[1].dim_value
        graph.initializer.append(_scalar(f"scale_{layer}", past.elem_type, scale))
        after = [
            helper.make_node("Mul", [node.input[0], f"scale_{layer}"], [cut.query], name=f"vitcop_scale_{layer}"),
            helper.make_node("Identity", [joins[0].input[1]], [cut.new_key], name=f"vitcop_new_key_{layer}"),
            helper.make_node("Identity", [joins[1].input[1]], [cut.new_value], name=f"vitcop_new_value_{layer}"),
        ]
        place = list(graph.node).index(node)
        for offset, extra in enumerate(after):
            graph.node.insert(place + offset, extra)
        for name, count in ((cut.query, heads), (cut.new_key, kv_heads), (cut.new_value, kv_heads)):
            graph.output.append(helper.make_tensor_value_info(name, past.elem_type, [batch, count, 1, head_dim]))
        graph.input.append(helper.make_tensor_value_info(cut.attended, past.elem_type, [batch, heads, 1, head_dim]))
        _feed(graph, node.output[0], cut.attended)
        gone |= {each.output[0] for each in (node, *joins)}
        cuts.append(cut)
    _read_batch_of_ids(graph)
    _remove(graph, gone)
    return tuple(cuts)


def _joins(node: "onnx.NodeProto", made: dict) -> tuple[int, tuple]:
    """The decoder layer of an attention, and the Concat nodes of its keys and values."""
    joins = tuple(made[name] for name in node.input[1:3] if name in made)
    if [join.op_type for join in joins] == ["Concat", "Concat"]:
        names = [join.input[0] for join in joins]
        layer = names[0].removeprefix("past_key_")
        if layer.isdigit() and names == [f"past_key_{layer}", f"past_value_{layer}"]:
            return int(layer), joins
    raise InputError(f"decode graph: attention {node.name!r} does not join past and new keys; export the bundle again")


def _group(node: "onnx.NodeProto", made: dict, layer: int) -> int:
    """The layer group whose mask an attention reads, through the nodes that prepare it."""
    name = node.input[3] if len(node.input) > 3 else ""
    while name in made:
        name = made[name].input[0]
    group = name.removeprefix("attention_mask_")
    if not group.isdigit():
        raise InputError(
            f"decode graph: the attention of layer {layer} reads no attention_mask; export the bundle again"
        )
    return int(group)


def _check_attributes(attributes: dict, layer: int, node: "onnx.NodeProto") -> None:
    unknown = {name for name, value in attributes.items() if name != "scale" and value}
    if unknown or len(node.output) != 1 or any(node.input[4:]):
        raise InputError(
            f"decode graph: the attention of layer {layer} has {', '.join(sorted(unknown)) or 'further tensors'}, "
            "which in-place caches do not know; use --option kv_cache=plain"
        )


def _query_heads(node: "onnx.NodeProto", model: "onnx.ModelProto") -> int:
    """Nh, from the shape that the graph tells of the query, or of the rotary embedding that made it."""
    from onnx import helper

    for info in model.graph.value_info:
        if info.name == node.input[0] and len(info.type.tensor_type.shape.dim) == 4:
            return info.type.tensor_type.shape.dim[1].dim_value
    maker = next((other for other in model.graph.node if node.input[0] in other.output), None)
    for attribute in maker.attribute if maker is not None else ():
        if attribute.name == "num_heads":
            return helper.get_attribute_value(attribute)
    raise InputError("decode graph: the number of query heads cannot be told; use --option kv_cache=plain")


def _scalar(name: str, elem_type: int, value: float) -> "onnx.TensorProto":
    from onnx import helper

    return helper.make_tensor(name, elem_type, [], [value])


def _feed(graph: "onnx.GraphProto", old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _read_batch_of_ids(graph: "onnx.GraphProto") -> None:
    """The number of rows, which the graph may read off a cache, off `input_ids` instead."""
    from onnx import helper

    for node in graph.node:
        if node.op_type == "Shape" and node.input[0].startswith(("past_key_", "past_value_")):
            axes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            if axes.get("start", 0) == 0 and axes.get("end") == 1:
                node.input[0] = "input_ids"


def _remove(graph: "onnx.GraphProto", gone: set[str]) -> None:
    """Drop the nodes that make these values, then every node and input that nothing reads any more, and the caches
    among the outputs."""
    kept_outputs = [item for item in graph.output if not item.name.startswith("present_")]
    nodes = [node for node in graph.node if gone.isdisjoint(node.output)]
    wanted = {item.name for item in kept_outputs}
    while True:
        read = wanted | {name for node in nodes for name in node.input}
        alive = [node for node in nodes if any(name in read for name in node.output)]
        if len(alive) == len(nodes):
            break
        nodes = alive
    inputs = [item for item in graph.input if item.name in read]
    for field, values in (("node", nodes), ("input", inputs), ("output", kept_outputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
