"""Key and value caches of the decode engine: which form TensorRT can have, and the network that follows from it.

Three forms, told by the names that the bindings have (never by enum values):

- `lengths`: caches of fixed capacity, updated in place (`add_kv_cache_update`); attention reads as many of their tokens
  as `key_value_lengths` says. TensorRT 11.
- `mask`: the same caches; attention reads all of them under a mask. TensorRT 10.15 and 10.16.
- `plain`: decode.onnx as it is; each step gives back caches that are one token longer.

The two in-place forms are made from decode.onnx cut open at its attentions (`decode_graph.cut_attention`). Every layer
group has its own write index, length or mask, since the groups' caches differ in length. Capacities are fixed when
building, as the cache layer needs them; the batch stays dynamic.

Inputs of an in-place decode engine, beside `input_ids` [B,1] and `position_ids`: `past_key_i`, `past_value_i`
[B,Nkv,C_g,D]; `write_index_g` int32 [B], where the new token goes; `kv_length_g` int32 [B], tokens with the new one, or
`kv_mask_g` bool [B,1,1,C_g]. Outputs: `logits`, and `present_key_i`, `present_value_i`, which share the memory of their
past. Rows stand left in their caches, without padding.

Not run on a real TensorRT yet. What is tested: that the cut graph with these layers in standard ONNX nodes equals
decode.onnx, and that the bindings have the names and arguments used here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from vitcop.export.bundle import Architecture
from vitcop.export.runtimes.tensorrt.decode_graph import Cut
from vitcop.plugins.errors import InputError, MissingError

if TYPE_CHECKING:
    import tensorrt as trt

KvForm = Literal["lengths", "mask", "plain"]


def kv_form(wanted: str) -> KvForm:
    """The form of caches for `--option kv_cache=…`. Raises MissingError where in-place caches are asked for in vain."""
    import tensorrt as trt

    in_place = hasattr(trt.INetworkDefinition, "add_kv_cache_update")
    if wanted == "plain":
        return "plain"
    if not in_place:
        if wanted == "in_place":
            raise MissingError(
                f"TensorRT {trt.__version__} has no KV cache layer (add_kv_cache_update); use 10.15 or newer, or "
                "--option kv_cache=plain"
            )
        return "plain"
    has_lengths = hasattr(trt.IAttention, "key_value_lengths")
    return "lengths" if has_lengths and hasattr(trt.INetworkDefinition, "add_attention_v2") else "mask"


def join(
    network: "trt.INetworkDefinition", cuts: Sequence[Cut], capacities: Sequence[int], form: KvForm, facts: Architecture
) -> None:
    """Put cache updates and attention into a parsed cut graph, in place.

    Args:
        capacities: C_g of each layer group.
        facts: for the heads of keys and values, and their size.

    Raises InputError that names the layer where TensorRT refuses one.
    """
    inputs = {tensor.name: tensor for tensor in _inputs(network)}
    outputs = {tensor.name: tensor for tensor in _outputs(network)}
    lengths = _length_inputs(network, capacities, form)
    for cut in cuts:
        shape = (-1, facts.num_kv_heads, capacities[cut.group], facts.head_dim)
        index = lengths[f"write_index_{cut.group}"]
        keys = _update(network, f"key_{cut.layer}", outputs[cut.new_key], shape, index)
        values = _update(network, f"value_{cut.layer}", outputs[cut.new_value], shape, index)
        query = outputs[cut.query]
        found = _attend(network, query, keys, values, lengths[_bound(form, cut.group)], form)
        if found is None:
            raise InputError(f"TensorRT refuses the attention of layer {cut.layer}; use --option kv_cache=plain")
        _take_over(network, inputs[cut.attended], found)
        for name in (cut.query, cut.new_key, cut.new_value):
            network.unmark_output(outputs[name])


def input_shapes(
    cuts: Sequence[Cut], capacities: Sequence[int], form: KvForm, facts: Architecture
) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the inputs that `join` adds; None stands for the batch."""
    shapes: dict[str, tuple[int | None, ...]] = {}
    for cut in cuts:
        for part in ("key", "value"):
            name = f"past_{part}_{cut.layer}"
            shapes[name] = (None, facts.num_kv_heads, capacities[cut.group], facts.head_dim)
    for group, capacity in enumerate(capacities):
        shapes[f"write_index_{group}"] = (None,)
        shapes[_bound(form, group)] = (None,) if form == "lengths" else (None, 1, 1, capacity)
    return shapes


def aliases(cuts: Sequence[Cut]) -> Mapping[str, str]:
    """Output of an in-place decode engine to the input whose memory it shares."""
    return {f"present_{part}_{cut.layer}": f"past_{part}_{cut.layer}" for cut in cuts for part in ("key", "value")}


def check_aliases(engine: "trt.ICudaEngine", wanted: Mapping[str, str], where: str) -> None:
    """Raises InputError where a built engine does not update a cache in the memory of its input."""
    for output, source in wanted.items():
        found = engine.get_aliased_input_tensor(output)
        if found != source:
            raise InputError(
                f"{where}: in the built engine {output!r} shares the memory of {found or 'nothing'}, not of "
                f"{source!r}; use --option kv_cache=plain"
            )


def _bound(form: KvForm, group: int) -> str:
    return f"kv_length_{group}" if form == "lengths" else f"kv_mask_{group}"


def _inputs(network: "trt.INetworkDefinition") -> list["trt.ITensor"]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _outputs(network: "trt.INetworkDefinition") -> list["trt.ITensor"]:
    return [network.get_output(index) for index in range(network.num_outputs)]


def _length_inputs(
    network: "trt.INetworkDefinition", capacities: Sequence[int], form: KvForm
) -> dict[str, "trt.ITensor"]:
    """The inputs that say where each layer group's caches end."""
    import tensorrt as trt

    made: dict[str, trt.ITensor] = {}
    for group, capacity in enumerate(capacities):
        index, bound = f"write_index_{group}", _bound(form, group)
        made[index] = network.add_input(index, trt.DataType.INT32, (-1,))
        if form == "lengths":
            made[bound] = network.add_input(bound, trt.DataType.INT32, (-1,))
        else:
            made[bound] = network.add_input(bound, trt.DataType.BOOL, (-1, 1, 1, capacity))
    return made


def _update(
    network: "trt.INetworkDefinition", what: str, new: "trt.ITensor", shape: tuple[int, ...], index: "trt.ITensor"
) -> "trt.ITensor":
    """The cache of one layer with the new token in it: an output that shares the memory of its input."""
    import tensorrt as trt

    past = network.add_input(f"past_{what}", new.dtype, shape)
    if hasattr(network, "add_kv_cache_update"):
        layer: trt.IKVCacheUpdateLayer = network.add_kv_cache_update(past, new, index, trt.KVCacheMode.LINEAR)
        if layer is not None:
            layer.name = f"vitcop_cache_{what}"
            present = layer.get_output(0)
            present.name = f"present_{what}"
            network.mark_output(present)
            return present
    raise InputError(f"TensorRT refuses the cache update of {what}; use --option kv_cache=plain")


def _attend(
    network: "trt.INetworkDefinition",
    query: "trt.ITensor",
    keys: "trt.ITensor",
    values: "trt.ITensor",
    bound: "trt.ITensor",
    form: KvForm,
) -> "trt.ITensor | None":
    """Attention of one new token to the tokens of its cache; the token itself is among them, so nothing is causal."""
    import tensorrt as trt

    softmax = trt.AttentionNormalizationOp.SOFTMAX
    if form == "mask":
        attention: trt.IAttention | None = network.add_attention(query, keys, values, softmax, False)
        if attention is not None:
            attention.mask = bound
            _check_taken(attention.mask, "mask")
    elif (
        hasattr(network, "add_attention_v2")
        and hasattr(trt.IAttention, "key_value_lengths")
        and hasattr(trt, "CausalMaskKind")
    ):
        attention = network.add_attention_v2(query, keys, values, softmax, trt.CausalMaskKind.NONE)
        if attention is not None:
            attention.key_value_lengths = bound
            _check_taken(attention.key_value_lengths, "key_value_lengths")
    else:
        raise MissingError(f"TensorRT {trt.__version__} has no key_value_lengths; use --option kv_cache=plain")
    if attention is None:
        return None
    # Where no fused kernel fits (a head size, an architecture), a few plain ones do.
    attention.decomposable = True
    return attention.get_output(0)


def _check_taken(value: "trt.ITensor | None", what: str) -> None:
    """The bindings drop the answer of a setter, so a refusal shows only in what can be read afterwards."""
    if value is None:
        raise InputError(f"TensorRT refuses {what} of an attention over KV caches; use --option kv_cache=plain")


def _take_over(network: "trt.INetworkDefinition", old: "trt.ITensor", new: "trt.ITensor") -> None:
    """Let every layer that reads the network input `old` read `new`, and take the input away."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_inputs):
            tensor = layer.get_input(place)
            if tensor is not None and tensor.name == old.name:
                layer.set_input(place, new)
    network.remove_tensor(old)
