"""Half precision by conversion of the graph: the same graph as from a half-precision checkpoint, and as near to fp32 as
PyTorch in fp16 is."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from export_cases import Exported
from PIL import Image, ImageDraw
from tensorrt_checks import check_model

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.export.bundle import GRAPHS, Bundle, FileRecord, Weights, graph_contract
from vitcop.export.measure.near_ties import compare_stages
from vitcop.export.runtimes.onnxruntime.runner import OnnxRuntimeRunner
from vitcop.export.runtimes.tensorrt import half_weights
from vitcop.export.runtimes.tensorrt.precision import convert_graph
from vitcop.plugins.errors import InputError

FLOATS = {1: "FP32", 10: "FP16", 16: "BF16"}


def converted(bundle: Bundle, folder: Path, dtype: str) -> Bundle:
    """All graphs of a bundle in half precision, as a bundle that a runner takes."""
    folder.mkdir(exist_ok=True)
    for part in GRAPHS:
        convert_graph(bundle.graph(part), folder / f"{part}.onnx", dtype)
    facts = replace(bundle.manifest.architecture, dtype=dtype)
    files = [folder / f"{part}.onnx.data" for part in GRAPHS]
    records = tuple(FileRecord(name=path.name, size=path.stat().st_size, sha256="") for path in files)
    weights = Weights(mode="copied", folder=".", files=records)
    return replace(bundle, path=folder, manifest=replace(bundle.manifest, architecture=facts, weights=weights))


@pytest.fixture(scope="module")
def narrow(wide_bundle, tmp_path_factory) -> Bundle:
    """The fp32 bundle, converted to fp16."""
    return converted(wide_bundle, tmp_path_factory.mktemp("narrow") / "c16", "float16")


def load(bundle: Bundle, part: str) -> onnx.ModelProto:
    return onnx.load(bundle.graph(part), load_external_data=False)


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    """Element type of every value by name, in onnx's own inference; sound types are part of that."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: FLOATS.get(number, "other") for name, number in found.items()}


def batch_of(model: Exported, count: int = 3) -> PromptBatch:
    """Prompts about pictures of coloured shapes."""
    pictures = []
    for index in range(count):
        picture = Image.new("RGB", (96, 96), (230, 228, 220))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((8 + 9 * index, 10, 40 + 9 * index, 42), fill=((200, 30, 40), (30, 60, 200), (20, 150, 60))[index])
        draw.rectangle((50, 50 - 6 * index, 84, 84), fill=((240, 190, 30), (120, 40, 160), (240, 120, 20))[index])
        pictures.append(picture)
    texts = [f"USER: <image>\nwhat color is the {'large ' * index}circle ? ASSISTANT:" for index in range(count)]
    return model.family.prepare(model.processor, texts, [[picture] for picture in pictures])


def test_it_is_the_graph_of_a_half_precision_checkpoint(narrow, exported_half):
    """The same nodes in the same types, but for where a Cast stands: before a view, or behind it."""
    for part in GRAPHS:
        graphs = []
        for bundle in (narrow, exported_half.bundle):
            model = load(bundle, part)
            types = types_of(model)
            graphs.append(
                Counter((node.op_type, tuple(types.get(name, "") for name in node.output)) for node in model.graph.node)
            )
        moved = {(op, types) for op, types in graphs[0] - graphs[1] | graphs[1] - graphs[0]}
        assert {op for op, _ in moved} <= {"Squeeze"}, f"{part}: {moved}"
        names = [[(value.name, FLOATS.get(value.type.tensor_type.elem_type)) for value in (*g.input, *g.output)]
                 for g in (load(narrow, part).graph, load(exported_half.bundle, part).graph)]  # fmt: skip
        assert names[0] == names[1]


def test_it_computes_what_the_half_precision_bundle_computes(narrow, exported_half):
    batch = batch_of(exported_half)
    ours, theirs = (OnnxRuntimeRunner(bundle, threads=1) for bundle in (narrow, exported_half.bundle))
    found, expected = ours.prefill(batch), theirs.prefill(batch)
    np.testing.assert_array_equal(found.vision.kept_visual, expected.vision.kept_visual)
    for mine, other in zip(found.drops, expected.drops, strict=True):
        np.testing.assert_array_equal(mine.kept_visual, other.kept_visual)
    np.testing.assert_array_equal(found.logits, expected.logits)
    token = expected.logits.argmax(axis=1)
    np.testing.assert_array_equal(ours.decode(token, found.state), theirs.decode(token, expected.state))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_contract_and_tables_hold(wide_bundle, tmp_path, dtype):
    bundle = converted(wide_bundle, tmp_path / "half", dtype)
    half = {"float16": "FP16", "bfloat16": "BF16"}[dtype]
    contract = graph_contract(bundle.schedule, bundle.manifest.architecture)
    for part in GRAPHS:
        model = load(bundle, part)
        check_model(model, f"{part} in {dtype}")
        types = types_of(model)
        for tensor in (*contract[part].inputs, *contract[part].outputs):
            assert types[tensor.name] == {"int64": "other", "float32": "FP32", "float": half}[tensor.kind], tensor.name
        external = [tensor for tensor in model.graph.initializer if tensor.external_data]
        assert external and {FLOATS[tensor.data_type] for tensor in external} == {half}
        assert {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"} == {
            f"{part}.onnx.data"
        }
        for node in model.graph.node:
            # One residual stream in half precision: whatever has weights, attention and norms computes in it.
            if node.op_type in ("MatMul", "Attention", "RMSNormalization", "LayerNormalization", "Gemm", "Conv"):
                weighted = any(name in {tensor.name for tensor in external} for name in node.input)
                assert types[node.output[0]] == half or (node.op_type == "MatMul" and not weighted), node.name
            if node.op_type in ("Cos", "Sin"):
                assert types[node.output[0]] == "FP32", "rotary tables are made in fp32"
            if node.domain == "vitcop":
                floats = {name: types[name] for name in node.input if types.get(name, "other") != "other"}
                scored = node.op_type in ("ScoreSelect", "ClusterMergePlan", "DensityPeakClusters")
                assert set(floats.values()) == ({"FP32"} if scored else {half}), f"{node.op_type} {floats}"


def test_weights_are_those_of_the_shards_rounded(wide_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(half_weights, "_CHUNK", 100)
    for dtype, kind in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        bundle = converted(wide_bundle, tmp_path / dtype, dtype)
        seen = 0
        for part in GRAPHS:
            model = onnx.load(bundle.graph(part))
            before = {tensor.name: tensor for tensor in load(wide_bundle, part).graph.initializer}
            for tensor in model.graph.initializer:
                place = {entry.key: entry.value for entry in before.get(tensor.name, tensor).external_data}
                if place:
                    size, offset = int(place["length"]) // 4, int(place["offset"])
                    source = np.fromfile(
                        wide_bundle.weights_folder / place["location"], np.float32, count=size, offset=offset
                    )
                    found = onnx.numpy_helper.to_array(tensor).flatten()
                    np.testing.assert_array_equal(found.view(np.uint16), source.astype(kind).view(np.uint16))
                    seen += 1
        assert seen > 10


@pytest.mark.slow
def test_the_embedded_model_is_as_near_to_fp32_as_torch_in_fp16(shapes, tmp_path):
    """Logits within the error that PyTorch's own fp16 has; kept tokens the same, or near-ties of fp16."""
    batch, schedule = batch_of(shapes), shapes.bundle.schedule
    reference = ScheduledRunner(shapes.model, shapes.family, schedule).prefill(batch)
    half, _, family = load_model(Checkpoint.open(shapes.folder), dtype=torch.float16)
    low = ScheduledRunner(half, family, schedule).prefill(batch)
    ours = OnnxRuntimeRunner(converted(shapes.bundle, tmp_path / "c16", "float16"), threads=1).prefill(batch)
    verdicts = [compare_stages(reference, ours, row, "float16") for row in range(3)]
    assert not any("different" in each for each in verdicts), verdicts
    rows = [row for row in range(3) if {*verdicts[row], *compare_stages(reference, low, row, "float16")} == {"same"}]
    assert rows, "in one row at least both kept what fp32 kept"
    baseline = np.abs(low.logits - reference.logits)[rows].max()
    assert np.abs(ours.logits - reference.logits)[rows].max() <= 2 * baseline + 1e-3


def test_one_half_type_becomes_the_other(exported_half, tmp_path):
    same = converted(exported_half.bundle, tmp_path / "same", "float16")
    other = converted(exported_half.bundle, tmp_path / "other", "bfloat16")
    for part in GRAPHS:
        kinds = Counter(types_of(load(other, part)).values())
        before = Counter(types_of(load(exported_half.bundle, part)).values())
        assert kinds["FP16"] == 0 and kinds["BF16"] == before["FP16"] and kinds["FP32"] == before["FP32"]
        check_model(load(other, part), f"{part} in bfloat16")
        assert [node.op_type for node in load(same, part).graph.node] == [
            node.op_type for node in load(exported_half.bundle, part).graph.node
        ]
    batch = batch_of(exported_half)
    runners = (OnnxRuntimeRunner(bundle, threads=1) for bundle in (same, exported_half.bundle))
    np.testing.assert_array_equal(*(runner.prefill(batch).logits for runner in runners))


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(wide_bundle, tmp_path):
    with pytest.raises(InputError, match="'int8' is not one of float16, bfloat16"):
        convert_graph(wide_bundle.graph("decode"), tmp_path / "d.onnx", "int8")
    with pytest.raises(InputError, match="not a vitcop bundle"):
        convert_graph(tmp_path / "decode.onnx", tmp_path / "d.onnx", "float16")
    with pytest.raises(InputError, match="not a graph of the bundle"):
        convert_graph(wide_bundle.path / "other.onnx", tmp_path / "d.onnx", "float16")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_fp16_cannot_hold_is_named(wide_bundle, tmp_path):
    bundle = Bundle.open(shutil.copytree(wide_bundle.path, tmp_path / "bundle"))
    weights = load(bundle, "prefill").graph.initializer
    weight = next(tensor for tensor in weights if tensor.name.endswith("layers.1.mlp.up_proj.weight"))
    place = {entry.key: entry.value for entry in weight.external_data}
    with (bundle.path / place["location"]).open("r+b") as shard:
        shard.seek(int(place["offset"]))
        shard.write(np.float32(70000).tobytes())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"up_proj\.weight' has numbers above what float16 holds \(65504\)"):
        convert_graph(bundle.graph("prefill"), out / "prefill.onnx", "float16")
    assert list(out.iterdir()) == []
    convert_graph(bundle.graph("prefill"), out / "prefill.onnx", "bfloat16")
    assert sorted(path.name for path in out.iterdir()) == ["prefill.onnx", "prefill.onnx.data"]
