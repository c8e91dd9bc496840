"""bfloat16 bundles. ONNX Runtime computes no bfloat16 on the CPU, so the exported graphs are checked in two ways: as
they are, every type held by onnx's own inference; and with every bfloat16 widened to fp32, where ONNX Runtime must give
what PyTorch gives in fp32 with the same (bfloat16-rounded) weights. The rewritten graph itself runs in PyTorch, in
bfloat16.
"""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from export_cases import Captured, Exported, drop_points, prompt_feeds, run_graph, vision_stage
from onnx import TensorProto, numpy_helper
from tensorrt_checks import checked
from tiny_models import build_tiny_llava

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.capture import capture_prefill, capture_vision
from vitcop.export.capture.paths import module_paths
from vitcop.export.compile import export_bundle, least_visual_count

SCHEDULE = Schedule(
    num_layers=3,
    vision=VisionStage(keep=(3, 4), clusters=Clusters(centers=(3, 10))),
    drops=(Drop(layer=1, op="merge", keep=(3, 4)), Drop(layer=2, keep=(1, 2))),
)


@pytest.fixture(scope="module")
def brain(tmp_path_factory) -> Exported:
    """A bfloat16 model and its bundle; `model` computes in fp32 with the same weights."""
    folder = build_tiny_llava(tmp_path_factory.mktemp("bf16") / "m", layers=3, vision_layers=2, dtype="bfloat16")
    bundle = checked(Bundle.open(export_bundle(folder, SCHEDULE, tmp_path_factory.mktemp("bf16") / "bundle")))
    return Exported(folder, *load_model(Checkpoint.open(folder), dtype="float32"), bundle)


def widened(bundle: Bundle, part: str) -> onnx.ModelProto:
    """The graph with fp32 in place of bfloat16, weights inside."""
    model = onnx.load(bundle.graph(part), load_external_data=False)
    onnx.load_external_data_for_model(model, str(bundle.weights_folder))
    graphs = [model.graph, *model.functions]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in (node for graph in graphs for node in graph.node):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.BFLOAT16:
                wide = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(wide))
    del model.graph.value_info[:]
    return model


def run(model: onnx.ModelProto, feeds: dict) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {item.name: feeds[item.name] for item in session.get_inputs()}), strict=True)
    )


def test_widened_to_fp32_the_graphs_are_pytorch(brain, make_batch):
    batch = make_batch(brain.processor, brain.family, 3)
    expected = ScheduledRunner(brain.model, brain.family, SCHEDULE).prefill(batch)
    seen = run(widened(brain.bundle, "vision"), batch.vision_inputs)
    np.testing.assert_array_equal(seen["kept_patches"], expected.vision.kept_visual)
    feeds = prompt_feeds(batch.after_drop(seen["kept_patches"])) | seen
    found = run(widened(brain.bundle, "prefill"), feeds)
    np.testing.assert_allclose(found["logits"][:, -1], expected.logits, atol=1e-4)
    for index, drop in enumerate(expected.drops):
        np.testing.assert_array_equal(found[f"kept_visual_{index}"], drop.kept_visual)
    tokens = expected.logits.argmax(axis=1)
    past = {name.replace("present", "past"): value for name, value in found.items() if name.startswith("present")}
    masks = {
        f"attention_mask_{g}": np.pad(mask.numpy().astype(np.int64), ((0, 0), (0, 1)), constant_values=1)
        for g, mask in enumerate(expected.state.masks)
    }
    step = {"input_ids": tokens[:, None], "position_ids": batch.next_position[:, None]} | masks | past
    logits = run(widened(brain.bundle, "decode"), step)["logits"][:, -1]
    after = ScheduledRunner(brain.model, brain.family, SCHEDULE).decode(tokens, expected.state)
    np.testing.assert_allclose(logits, after, atol=1e-4)


@pytest.mark.parametrize("part", GRAPHS)
def test_types_hold_and_single_ops_stay(brain, part):
    model = onnx.load(brain.bundle.graph(part), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert {v.type.tensor_type.elem_type for v in inferred.graph.value_info} >= {TensorProto.BFLOAT16}
    floats = {i.name: i.type.tensor_type.elem_type for i in model.graph.input if i.type.tensor_type.elem_type != 7}
    assert all(
        kind == TensorProto.BFLOAT16 for name, kind in floats.items() if name not in ("visual_grid", "vision_saliency")
    )
    counts = Counter(node.op_type for node in model.graph.node)
    if part != "vision":
        assert (counts["Attention"], counts["RMSNormalization"], counts["RotaryEmbedding"]) == (3, 7, 6)
    assert brain.bundle.manifest.architecture.dtype == "bfloat16"


def test_the_rewritten_graph_in_bfloat16_is_pytorch_in_bfloat16(brain, make_batch):
    """Kept tokens and logits; scores are computed in fp32 from bfloat16 keys in both."""
    model, processor, family = load_model(Checkpoint.open(brain.folder), dtype="bfloat16")
    vision, scale = capture_vision(model, family, watched=True)
    graphs = {
        "vision": vision,
        "prefill": capture_prefill(model, family, num_visual=16, min_visual=least_visual_count(SCHEDULE)),
    }
    captured = Captured(brain.folder, model, processor, family, module_paths(model, family), scale, graphs)
    batch = make_batch(processor, family, 2)
    expected = ScheduledRunner(model, family, SCHEDULE).prefill(batch)
    inputs = batch.vision_inputs | {"pixel_values": torch.tensor(batch.vision_inputs["pixel_values"]).bfloat16()}
    seen = run_graph(vision_stage(captured, SCHEDULE), inputs)
    np.testing.assert_array_equal(seen["kept_patches"], expected.vision.kept_visual)
    feeds = prompt_feeds(batch.after_drop(seen["kept_patches"].numpy())) | seen
    found = run_graph(drop_points(captured, SCHEDULE), feeds)
    assert expected.drops[0].scores.dtype == np.float32
    np.testing.assert_array_equal(found["kept_visual_0"], expected.drops[0].kept_visual)
    spread = np.abs(expected.logits).max()
    np.testing.assert_allclose(found["logits"][:, -1].float(), expected.logits, atol=0.05 * spread)
