"""The decode graph cut open at its attentions. That it computes the same when joined again is in test_engine_run."""

import onnx
import pytest
from host_sessions import joined
from onnx import TensorProto, helper

from vitcop.export.bundle import GRAPHS
from vitcop.export.runtimes.tensorrt.decode_graph import cut_attention
from vitcop.export.runtimes.tensorrt.kv_cache import aliases, input_shapes
from vitcop.export.runtimes.tensorrt.precision import convert_graph
from vitcop.plugins.errors import InputError


@pytest.fixture
def decode(bundle):
    return onnx.load(bundle.graph("decode"), load_external_data=False)


def readers_of_caches(model):
    """Operations that read a mask or a cache, as it is or through other nodes that only prepare it."""
    prepared = {"Cast", "Concat", "Unsqueeze", "Reshape", "Expand", "Where"}
    read = {item.name for item in model.graph.input if item.name.startswith(("attention_mask_", "past_"))}
    found = set()
    for node in model.graph.node:
        if read & set(node.input) or any("mask" in name or "past_" in name for name in node.input):
            found.add(node.op_type)
            if node.op_type in prepared:
                read |= set(node.output)
    return found


def test_what_is_left_and_what_is_new(decode, bundle):
    assert {"Attention", "Concat", "Cast"} <= readers_of_caches(decode)
    cuts = cut_attention(decode)
    assert [(cut.layer, cut.group) for cut in cuts] == [(0, 0), (1, 1), (2, 2)]
    assert [item.name for item in decode.graph.input] == ["input_ids", "position_ids", *(c.attended for c in cuts)]
    new = [name for cut in cuts for name in (cut.query, cut.new_key, cut.new_value)]
    assert [item.name for item in decode.graph.output] == ["logits", *new]
    facts = bundle.manifest.architecture
    for item in (*decode.graph.input[2:], *decode.graph.output[1:]):
        shape = [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        heads = facts.num_kv_heads if item.name.startswith("new_") else 4
        assert shape == [0, heads, 1, facts.head_dim], item.name
    # Masks and caches are gone with every node that only made them.
    assert "Attention" not in {node.op_type for node in decode.graph.node}
    assert readers_of_caches(decode) == set()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_converted_graph_is_cut_in_its_own_type(bundle, tmp_path, dtype):
    convert_graph(bundle.graph("decode"), tmp_path / "decode.onnx", dtype)
    model = onnx.load(tmp_path / "decode.onnx")
    cuts = cut_attention(model)
    onnx.checker.check_model(model, full_check=True)
    kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.BFLOAT16
    seam = {name for cut in cuts for name in (cut.query, cut.new_key, cut.new_value, cut.attended)}
    for item in (*model.graph.input, *model.graph.output):
        assert item.type.tensor_type.elem_type == kind or item.name not in seam


def test_names_of_the_added_inputs(decode, bundle):
    cuts, facts = cut_attention(decode), bundle.manifest.architecture
    lengths = input_shapes(cuts, (9, 8, 7), "lengths", facts)
    assert lengths["past_value_2"] == (None, facts.num_kv_heads, 7, facts.head_dim)
    assert lengths["write_index_1"] == lengths["kv_length_1"] == (None,)
    masks = input_shapes(cuts, (9, 8, 7), "mask", facts)
    assert masks["kv_mask_1"] == (None, 1, 1, 8) and "kv_length_1" not in masks
    assert aliases(cuts)["present_key_0"] == "past_key_0" and len(aliases(cuts)) == 6


def test_only_decode_is_cut(bundle):
    for part in GRAPHS[:2]:
        with pytest.raises(InputError, match="decode graph"):
            cut_attention(onnx.load(bundle.graph(part), load_external_data=False))


def test_a_cache_that_is_no_input_is_refused(decode):
    decode.graph.input.remove(next(item for item in decode.graph.input if item.name == "past_key_1"))
    with pytest.raises(InputError, match="no input past_key_1; export the bundle again"):
        cut_attention(decode)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: node.attribute.append(helper.make_attribute("softcap", 30.0)), "softcap.*kv_cache=plain"),
        (lambda node: node.input.extend(["past_key_1", "past_value_1"]), "further tensors"),
        (lambda node: node.input.__setitem__(1, "past_key_1"), "does not join past and new keys"),
        (lambda node: node.input.__setitem__(3, "position_ids"), "reads no attention_mask"),
    ],
)
def test_an_attention_of_another_kind_is_refused(decode, change, words):
    change([node for node in decode.graph.node if node.op_type == "Attention"][1])
    with pytest.raises(InputError, match=words):
        cut_attention(decode)


def test_the_joined_graph_is_sound(decode, bundle):
    for form in ("lengths", "mask"):
        model, _ = joined(onnx.ModelProto.FromString(decode.SerializeToString()), (9, 8, 7), form, _facts(bundle))
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _facts(bundle):
    return bundle.manifest.architecture
