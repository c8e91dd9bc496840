"""Weights stay in the checkpoint: what the graphs refer to, whatever form the checkpoint has."""

import json
import math
import shutil
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_cases import Exported
from safetensors.torch import load_file, save_file
from tensorrt_checks import checked
from tiny_models import build_tiny_llava

from vitcop.calibrate.models.checkpoint import SINGLE_SHARD, Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.capture.skeleton import load_skeleton
from vitcop.export.compile import export_bundle
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner
from vitcop.plugins.errors import InputError

MOST_INLINE = 65_536
SMALL = 1024
"""Elements; matrices of the tiny model that are no larger count as small."""


def initializers(bundle):
    """(graph, tensor) of every initializer of a bundle."""
    for part in GRAPHS:
        for tensor in onnx.load(bundle.graph(part), load_external_data=False).graph.initializer:
            yield part, tensor


def external_ones(bundle):
    """(graph, tensor) of those whose values lie in a shard."""
    return [(part, t) for part, t in initializers(bundle) if t.data_location == onnx.TensorProto.EXTERNAL]


def place(tensor):
    return {entry.key: entry.value for entry in tensor.external_data}


def test_weights_are_external_under_plain_names(plain):
    bundle, external = plain.bundle, external_ones(plain.bundle)
    assert {place(tensor)["location"] for _, tensor in external} == {SINGLE_SHARD}
    assert [record.name for record in bundle.manifest.weights.files] == [SINGLE_SHARD]
    assert bundle.manifest.weights.folder == str(plain.folder)
    assert not list(bundle.path.glob("*.safetensors"))
    # Each matrix of the decoder under its own name; vectors of equal content (a fresh model's norms) may share one.
    matrices = {
        name
        for name, value in plain.model.named_parameters()
        if name.startswith(("model.language_model", "lm_head")) and value.ndim > 1
    }
    for part in ("prefill", "decode"):
        assert matrices <= {tensor.name for each, tensor in external if each == part}


def test_what_is_inline_is_small_and_no_weight(plain, merged):
    names = dict(plain.model.named_parameters())
    for bundle in (plain.bundle, merged.bundle):
        for _, tensor in initializers(bundle):
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert tensor.name not in names
                assert len(tensor.raw_data) <= MOST_INLINE


def test_external_values_are_those_of_the_checkpoint(plain):
    """The bytes at the recorded place, under the model's own names."""
    state = plain.model.state_dict()
    seen = set()
    for _, tensor in external_ones(plain.bundle):
        where = place(tensor)
        raw = np.memmap(plain.folder / where["location"], np.uint8, "r", int(where["offset"]), (int(where["length"]),))
        values = raw.view(np.float32).reshape(tuple(tensor.dims))
        np.testing.assert_array_equal(values, state[tensor.name].numpy(), err_msg=tensor.name)
        seen.add(tensor.name)
    assert len(seen) > 30


def test_onnx_runtime_reads_them_in_place(plain):
    """A graph that hands one initializer through, over the folder of the checkpoint."""
    model = onnx.load(plain.bundle.graph("prefill"), load_external_data=False)
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    (tensor,) = [each for each in model.graph.initializer if each.name == name]
    node = onnx.helper.make_node("Identity", [name], ["out"])
    out = onnx.helper.make_tensor_value_info("out", tensor.data_type, list(tensor.dims))
    graph = onnx.helper.make_graph([node], "one", [], [out], initializer=[tensor])
    small = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(plain.folder))
    session = onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tensors = load_file(plain.folder / SINGLE_SHARD)
    (expected,) = (value.numpy() for key, value in tensors.items() if key.endswith("layers.1.mlp.down_proj.weight"))
    np.testing.assert_array_equal(session.run(None, {})[0], expected)


def test_rotary_frequencies_are_rebuilt_with_their_values(plain):
    """As they are, or folded into what an older transformers makes of them at once: [1,D/2,1]."""
    own = [tensor for part, tensor in initializers(plain.bundle) if part == "prefill" and not tensor.external_data]
    expected = plain.model.model.language_model.rotary_emb.inv_freq.numpy()
    assert any(np.array_equal(onnx.numpy_helper.to_array(tensor).ravel(), expected) for tensor in own)


def test_exporting_reads_no_matrix(plain_and_reads):
    """Lowering may look at values of up to `SMALL` elements, to share equal ones; else shards are only hashed."""
    _, read = plain_and_reads
    assert not [shape for shape in read if math.prod(shape) > SMALL]


@pytest.fixture
def copied(two_layers, tmp_path):
    """A copy of the model folder whose weights a test may rewrite: (folder, tensors, write)."""
    folder = tmp_path / "copy"
    shutil.copytree(two_layers, folder)
    tensors = load_file(folder / SINGLE_SHARD)
    return folder, tensors, lambda new: save_file(new, folder / SINGLE_SHARD, metadata={"format": "pt"})


def shapes_and_bytes(folder):
    """Of each weight by its name in the model: its bytes in the checkpoint."""
    weights = load_skeleton(Checkpoint.open(folder)).weights
    found = {}
    for name, where in weights.items():
        with (folder / where.file).open("rb") as file:
            file.seek(where.offset)
            found[name] = (where.shape, file.read(where.length))
    return found


def modern(name):
    """Names as the modules have them since transformers 5, from the hub's older ones."""
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{name}"


def hub(name):
    """Names as the llava-hf checkpoints on the hub have them."""
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


@pytest.mark.parametrize("rename", [modern, hub])
def test_other_spellings_of_the_names_are_found(two_layers, copied, rename):
    folder, tensors, write = copied
    renamed = {rename(name): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    write(renamed)
    assert shapes_and_bytes(folder) == shapes_and_bytes(two_layers)


def test_several_shards(two_layers, tmp_path):
    folder = build_tiny_llava(tmp_path / "sharded", layers=2, vision_layers=2, seed=1, max_shard_size="60KB")
    checkpoint = Checkpoint.open(folder)
    assert len(checkpoint.shards) > 1
    assert {where.file for where in load_skeleton(checkpoint).weights.values()} == set(checkpoint.shards)
    assert shapes_and_bytes(folder) == shapes_and_bytes(two_layers)


def test_a_missing_tensor_is_named(copied):
    folder, tensors, write = copied
    gone = next(name for name in tensors if name.endswith("layers.1.self_attn.k_proj.weight"))
    write({name: value for name, value in tensors.items() if name != gone})
    with pytest.raises(InputError, match=r"tensor model\..*\.1\.self_attn\.k_proj\.weight of the model is not in the"):
        load_skeleton(Checkpoint.open(folder))


def test_a_tensor_of_another_shape_is_named(copied):
    folder, tensors, write = copied
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    write(tensors | {name: tensors[name][:48].clone()})
    with pytest.raises(InputError, match=r"up_proj\.weight has shape \[48, 32\] in .* asks for \[64, 32\]"):
        load_skeleton(Checkpoint.open(folder))


def test_mixed_dtypes_are_refused(copied):
    folder, tensors, write = copied
    name = next(iter(tensors))
    write(tensors | {name: tensors[name].half()})
    with pytest.raises(InputError, match="weights of dtype F16, F32"):
        load_skeleton(Checkpoint.open(folder))


def test_an_extra_tensor_does_no_harm(two_layers, copied):
    folder, tensors, write = copied
    write(tensors | {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert shapes_and_bytes(folder) == shapes_and_bytes(two_layers)


# -- half precision, tied embeddings and shards, all in one export ----------------------------------------------------

HALF = Schedule(num_layers=2, drops=(Drop(layer=1, score="text_query", order="largest", keep=(1, 17)),))
"""Of 16 tokens 16·1 // 17 = 0, so one is kept."""


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    folder = build_tiny_llava(
        tmp_path_factory.mktemp("half") / "tiny-half",
        layers=2,
        vision_layers=2,
        seed=3,
        weight_scale=3.0,
        dtype="float16",
        tied=True,
        max_shard_size="30KB",
    )
    bundle = checked(Bundle.open(export_bundle(folder, HALF, tmp_path_factory.mktemp("half-bundle") / "bundle")))
    return Exported(folder, *load_model(Checkpoint.open(folder), dtype=torch.float16), bundle)


def test_half_precision_is_as_near_to_fp32_as_torch_is(half, make_batch):
    batch = make_batch(half.processor, half.family, 3)
    exact, _, _ = load_model(Checkpoint.open(half.folder), dtype=torch.float32)
    reference = ScheduledRunner(exact, half.family, HALF).prefill(batch)
    low = ScheduledRunner(half.model, half.family, HALF).prefill(batch)
    ours = OnnxRuntimeRunner(half.bundle, threads=1).prefill(batch)
    for each in (low, ours):
        np.testing.assert_array_equal(each.drops[0].kept_visual, reference.drops[0].kept_visual)
    assert ours.drops[0].kept_visual.shape == (3, 1)
    baseline = np.abs(low.logits - reference.logits).max()
    assert np.abs(ours.logits - reference.logits).max() <= 2 * baseline + 1e-4


def test_half_precision_graphs_hold_and_hand_out_half_precision(half):
    assert half.bundle.manifest.architecture.dtype == "float16"
    assert {tensor.data_type for _, tensor in external_ones(half.bundle)} == {onnx.TensorProto.FLOAT16}
    model = onnx.load(half.bundle.graph("prefill"), load_external_data=False)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert {types[name] for name in ("visual_features", "logits", "present_key_1")} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("part", ["prefill", "decode"])
def test_half_precision_has_the_same_fused_nodes(half, part):
    """As in fp32: attention, norms and rotary embeddings are one node each, and nothing is computed in fp64."""
    model = onnx.load(half.bundle.graph(part), load_external_data=False)
    layers, kinds = HALF.num_layers, Counter(node.op_type for node in model.graph.node)
    assert kinds["Attention"] == layers
    assert kinds["RMSNormalization"] == 2 * layers + 1
    assert kinds["RotaryEmbedding"] == 2 * layers
    assert not {"Tile", "Softmax", "ReduceMean", "Neg"} & kinds.keys()
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    assert onnx.TensorProto.DOUBLE not in types.values()


def test_tied_embeddings_read_one_place(half):
    index = json.loads((half.folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    assert sum(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in index) == 1, "held once"
    places = {
        (place(tensor)["location"], place(tensor)["offset"])
        for part, tensor in initializers(half.bundle)
        if part == "prefill" and tensor.name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    assert len(places) == 1


def test_the_manifest_lists_every_shard_that_a_graph_reads(half):
    read = {place(tensor)["location"] for _, tensor in external_ones(half.bundle)}
    assert len(read) > 1
    assert read == {record.name for record in half.bundle.manifest.weights.files}
