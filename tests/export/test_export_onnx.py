"""What lowering makes: the contract, the op counts, vitcop's nodes and their bodies, and how lean the graphs stay."""

from collections import Counter

import numpy as np
import onnx
import pytest
from export_cases import ONE_MERGE, PAPER, drop_points
from onnx import TensorProto
from tensorrt_checks import checked

from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.bundle import GRAPHS, graph_contract
from vitcop.export.lower import OPSET, lower
from vitcop.export.lower.tidy import tidy
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner, build
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.export.runtimes.onnxruntime.sessions import GraphSession
from vitcop.plugins.registry import ONNX_OPS

LAYERS, HEADS, KV_HEADS = 2, 4, 2
NODES_PER_DROP = 44
"""Nodes that a drop may add to the prefill graph. A first selection adds 28 to 30: the scores and the selection, 6 that
gather hidden states, mask and ids, 9 of the new causal mask, 6 of the new rotary tables, and the arithmetic of the new
lengths. A first merge adds 36, since it also reads, merges and writes back the visual rows; half precision adds up to 4
casts, and each further drop the arithmetic of its own length. Depth and width of the model add nothing."""

VITCOP_NODES = {
    "vision": {"VisionSaliency": 1, "ScoreSelect": 1, "DensityPeakClusters": 1},
    "prefill": {"KNormScores": 1, "ClusterMergePlan": 1},
    "decode": {},
}


@pytest.fixture(scope="module")
def bundles(plain, merged):
    """{"plain" or "merged": what was exported}"""
    return {"plain": plain, "merged": merged}


@pytest.fixture(scope="module")
def models(bundles):
    """{"plain" or "merged": {graph: onnx model without its external data}}"""
    return {
        name: {part: onnx.load(each.bundle.graph(part), load_external_data=False) for part in GRAPHS}
        for name, each in bundles.items()
    }


@pytest.fixture(params=["plain", "merged"])
def kind(request):
    return request.param


def counts(model):
    return Counter(node.op_type for node in model.graph.node if node.domain == "")


def axes(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("part", GRAPHS)
def test_the_graph_contract_holds(models, bundles, kind, part):
    schedule = ONE_MERGE if kind == "merged" else Schedule(num_layers=LAYERS)
    facts = bundles[kind].bundle.manifest.architecture
    contract, graph = graph_contract(schedule, facts)[part], models[kind][part].graph
    for specs, values in ((contract.inputs, graph.input), (contract.outputs, graph.output)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        for spec, value in zip(specs, values, strict=True):
            expected = TensorProto.INT64 if spec.kind == "int64" else TensorProto.FLOAT
            assert value.type.tensor_type.elem_type == expected, spec.name
            assert len(axes(value)) == len(spec.axes), spec.name


def test_the_builder_accepts_the_bundle(merged):
    info = build(merged.bundle, OnnxRuntimeOptions(threads=1))
    assert set(info.sidecar["graphs"]) == set(GRAPHS)


def test_batch_sequence_and_visual_axes_are_dynamic(models, kind):
    values = {value.name: axes(value) for value in models[kind]["prefill"].graph.input}
    batch, sequence = values["input_ids"]
    visual = values["visual_index"][1]
    assert len({batch, sequence, visual}) == 3
    assert all(isinstance(name, str) for name in (batch, sequence, visual))
    assert values["attention_mask"] == values["position_ids"] == [batch, sequence]
    assert values["visual_features"] == [batch, visual, 32]
    outputs = {value.name: axes(value) for value in models[kind]["prefill"].graph.output}
    assert outputs["present_key_0"] == [batch, KV_HEADS, sequence, 8]
    assert (outputs["present_key_1"] == outputs["present_key_0"]) == (kind == "plain")
    assert isinstance(outputs["present_key_1"][2], str)


def test_each_layer_group_has_a_past_length_of_its_own(models):
    values = {value.name: axes(value) for value in models["merged"]["decode"].graph.input}
    lengths = [values[f"past_key_{layer}"][2] for layer in range(LAYERS)]
    assert lengths == [values[f"past_value_{layer}"][2] for layer in range(LAYERS)]
    masks = [values[f"attention_mask_{group}"][1] for group in range(2)]
    assert len({*lengths, *masks}) == 4
    assert all(isinstance(name, str) for name in (*lengths, *masks))
    plain = {value.name: axes(value) for value in models["plain"]["decode"].graph.input}
    assert plain["past_key_0"] == plain["past_key_1"]


@pytest.mark.parametrize("part", ["prefill", "decode"])
def test_one_fused_node_for_each_part_of_a_layer(models, kind, part):
    found = counts(models[kind][part])
    assert found["Attention"] == LAYERS
    assert found["RMSNormalization"] == 2 * LAYERS + 1
    assert found["RotaryEmbedding"] == 2 * LAYERS
    assert found["Softmax"] == found["ReduceMean"] == found["Tile"] == 0


def test_the_vision_tower_keeps_fused_attention(models, kind):
    """One layer of two is read; beside it one row of scores is all that the vision stage adds."""
    found = counts(models[kind]["vision"])
    assert found["Attention"] == 1
    assert found["Softmax"] == 0


def test_grouped_heads_are_not_expanded(models, kind):
    for part in ("prefill", "decode"):
        model = onnx.shape_inference.infer_shapes(models[kind][part], data_prop=True)
        known = {value.name: axes(value) for value in (*model.graph.value_info, *model.graph.output)}
        for node in model.graph.node:
            if node.op_type == "Attention":
                assert known[node.input[1]][1] == known[node.input[2]][1] == KV_HEADS
                assert known[node.output[0]][1] == HEADS


@pytest.mark.parametrize("part", GRAPHS)
def test_every_vitcop_op_is_one_node_with_a_body(models, part):
    model = models["merged"][part]
    nodes = [node for node in model.graph.node if node.domain == "vitcop"]
    assert Counter(node.op_type for node in nodes) == VITCOP_NODES[part]
    for node in nodes:
        spec = ONNX_OPS[node.op_type]
        found = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert found.pop("plugin_namespace") == b"vitcop"
        assert found.pop("plugin_version") == spec.plugin_version.encode()
        assert set(found) == {name for name, _ in spec.attributes}
        assert len(node.input) == len(spec.inputs)
        assert len(node.output) == len(spec.outputs)
    bodies = {function.name: function for function in model.functions}
    assert {name for name, body in bodies.items() if body.domain == "vitcop"} == set(VITCOP_NODES[part])
    opsets = {item.domain: item.version for item in model.opset_import}
    assert opsets[""] == OPSET
    for body in bodies.values():
        assert {item.domain: item.version for item in body.opset_import}[""] == OPSET
    assert ("vitcop" in opsets) == bool(nodes)


def test_the_nodes_are_those_of_the_rewritten_graph(captured, models):
    """The pass at one merge before layer 1, of a model that differs in depth alone."""
    schedule = Schedule(num_layers=3, vision=PAPER.vision, drops=ONE_MERGE.drops)
    targets = [node.target for node in drop_points(captured, schedule).module.graph.nodes]
    names = {str(target).split(".")[1] for target in targets if str(target).startswith("vitcop.")}
    found = {ONNX_OPS[op].torch_name for op in VITCOP_NODES["prefill"]}
    assert names - {"gather_rows", "put_rows"} == found
    for name, op in (("gather_rows", "GatherND"), ("put_rows", "ScatterND")):
        rows = sum(str(target).startswith(f"vitcop.{name}") for target in targets)
        assert counts(models["merged"]["prefill"])[op] == rows, op


def doubles(nodes):
    """Op types of the nodes that make fp64: casts and constants."""
    for node in nodes:
        for item in node.attribute:
            cast = node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.DOUBLE
            if cast or (item.HasField("t") and item.t.data_type == TensorProto.DOUBLE):
                yield node.op_type


@pytest.mark.parametrize("part", GRAPHS)
def test_no_double_precision_outside_of_vitcops_own_functions(models, kind, part):
    """In the graphs nowhere; in bodies where the definition itself sums in fp64 (a plugin replaces them on a GPU)."""
    model = models[kind][part]
    assert not list(doubles(model.graph.node))
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.DOUBLE]
    with_doubles = {body.name for body in model.functions if list(doubles(body.node))}
    assert with_doubles <= {"ClusterMergePlan", "DensityPeakClusters"}


@pytest.mark.parametrize("part", GRAPHS)
def test_no_dead_nodes_and_no_dead_initializers(models, kind, part):
    graph = models[kind][part].graph
    wanted = {value.name for value in graph.output}
    for node in reversed(graph.node):
        assert wanted & set(node.output), f"{node.op_type} {node.name} reaches no output"
        wanted |= {name for name in node.input if name}
    assert {tensor.name for tensor in graph.initializer} <= wanted


def test_a_drop_adds_a_bounded_number_of_nodes(models):
    plain, merged = (len(models[kind]["prefill"].graph.node) for kind in ("plain", "merged"))
    assert plain < merged <= plain + NODES_PER_DROP
    # One more mask, nothing else: sizes and rotary tables are those of the step.
    assert len(models["merged"]["decode"].graph.node) <= len(models["plain"]["decode"].graph.node) + 4


def test_each_further_drop_adds_no_more(captured, paper_traced):
    """A merge and a selection behind it, in one graph."""
    found = []
    for graph in (captured.graphs["prefill"], paper_traced):
        model, _ = lower(graph)
        tidy(model)
        found.append(len(list(model.graph)))
    assert found[0] < found[1] <= found[0] + NODES_PER_DROP * len(PAPER.drops)


def test_files_are_small_and_hold_nothing_of_the_run(models, plain, merged, kind):
    bundle = (plain if kind == "plain" else merged).bundle
    for part in GRAPHS:
        assert bundle.graph(part).stat().st_size < 100_000
        model = models[kind][part]
        assert model.producer_name == "vitcop"
        assert not model.metadata_props
        assert not model.doc_string
        for node in (*model.graph.node, *(node for body in model.functions for node in body.node)):
            assert not node.doc_string
            assert not node.metadata_props


@pytest.mark.parametrize("part", GRAPHS)
def test_onnx_itself_accepts_the_files(merged, part):
    """With the weights in the bundle: the checker wants plain files beside the graph."""
    onnx.checker.check_model(str(merged.bundle.graph(part)), full_check=True)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_merged_bundle_is_the_scheduled_model(merged, make_batch, size):
    batch = make_batch(merged.processor, merged.family, size)
    runner = OnnxRuntimeRunner(merged.bundle, threads=1)
    reference = ScheduledRunner(merged.model, merged.family, ONE_MERGE)
    found, expected = runner.prefill(batch), reference.prefill(batch)
    np.testing.assert_array_equal(found.vision.kept_visual, expected.vision.kept_visual)
    np.testing.assert_array_equal(found.drops[0].kept_visual, expected.drops[0].kept_visual)
    np.testing.assert_allclose(found.drops[0].assignment, expected.drops[0].assignment, atol=1e-6)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4, rtol=0)
    assert found.kv_lengths == expected.kv_lengths
    answers = [generate(each, batch, max_new_tokens=6, eos_ids=()).tokens for each in (runner, reference)]
    assert answers[0] == answers[1]


def test_the_onnx_prefill_takes_other_numbers_of_visual_tokens(merged):
    """V = 4, 9 and 40 in the engine against PyTorch; V enters through features and index alone."""
    from test_export_drop_tokens import FeaturesRunner, carried, prompt_feeds, synthetic

    session = GraphSession(merged.bundle, "prefill", OnnxRuntimeOptions(threads=1))
    for num_visual in (4, 9, 40):
        batch, kept = synthetic(merged, ONE_MERGE, size=3, num_visual=num_visual)
        feeds = prompt_feeds(batch) | {name: value.numpy() for name, value in carried(kept).items()}
        found = session.run({name: feeds[name] for name in session.inputs})
        expected = FeaturesRunner(merged, ONE_MERGE, kept).prefill(batch)
        np.testing.assert_array_equal(found["kept_visual_0"], expected.drops[0].kept_visual)
        np.testing.assert_allclose(found["logits"][:, -1], expected.logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_paper_preset_end_to_end(tmp_path, make_batch):
    """Four layers, three groups, ratios of the paper, through export and ONNX Runtime."""
    from export_cases import Exported
    from tiny_models import build_tiny_llava

    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.loading import load_model
    from vitcop.calibrate.schedule.presets import preset
    from vitcop.export.bundle import Bundle
    from vitcop.export.compile import export_bundle

    folder = build_tiny_llava(tmp_path / "tiny-four", layers=4, image=64, seed=2)
    schedule = preset("paper-1/3", 4, 64)
    drop = schedule.drops[1]
    schedule = Schedule(
        num_layers=4,
        vision=schedule.vision,
        drops=(schedule.drops[0], Drop(layer=drop.layer, score="text_query", order="largest", keep=drop.keep)),
    )
    bundle = checked(Bundle.open(export_bundle(folder, schedule, tmp_path / "bundle")))
    four = Exported(folder, *load_model(Checkpoint.open(folder)), bundle)
    batch = make_batch(four.processor, four.family, 3)
    runners = OnnxRuntimeRunner(bundle, threads=1), ScheduledRunner(four.model, four.family, schedule)
    found, expected = (generate(each, batch, max_new_tokens=6, eos_ids=(), keep_logits=True) for each in runners)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-4, rtol=0)
