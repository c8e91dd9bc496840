"""What a build finds out before TensorRT is asked: refusals, exit status, memory, and the dry run without TensorRT."""

import dataclasses
import sys

import onnx
import pytest
from click.testing import CliRunner

from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.bundle import Architecture
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.tensorrt.estimate import GIB, estimate, weight_bytes
from vitcop.export.runtimes.tensorrt.layers import check_plugin_layers, layer_names, selector_share
from vitcop.export.runtimes.tensorrt.network import VitcopNode, vitcop_nodes
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import prepare
from vitcop.plugins.errors import InputError, MissingError


@pytest.fixture
def no_tensorrt(monkeypatch):
    """A machine on which `import tensorrt` fails, whatever this one has."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def referenced(bundle, model_folder):
    """The bundle as it would be without `copy_weights`."""
    weights = dataclasses.replace(bundle.manifest.weights, mode="referenced", folder=str(model_folder))
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, weights=weights))


def test_without_tensorrt_it_says_what_to_install(bundle, no_tensorrt):
    target = open_target("tensorrt")
    for work in (target.build, target.runner):
        with pytest.raises(MissingError, match="package tensorrt.*pip install tensorrt-cu13") as missing:
            work(bundle)
        assert missing.value.exit_status == 4 and "\n" not in str(missing.value)


def test_a_folder_called_tensorrt_is_not_tensorrt(bundle, monkeypatch, tmp_path):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(MissingError, match="found none"):
        open_target("tensorrt").build(bundle)


def test_the_command_line_ends_with_status_4(bundle, no_tensorrt):
    from vitcop.pipeline.cli import cli

    done = CliRunner().invoke(cli, ["build", str(bundle.path), "--target", "tensorrt", "--max-batch", "2"])
    assert isinstance(done.exception, MissingError) or done.exit_code == 4
    assert not list(bundle.engines_folder.glob("tensorrt/*"))


def test_weights_that_are_only_referenced_are_refused_with_the_way_out(referenced):
    with pytest.raises(InputError, match="--copy-weights"):
        prepare(referenced, TensorRtOptions())


def test_sliding_windows_are_refused(bundle):
    facts = dataclasses.replace(bundle.manifest.architecture, sliding_layers=(1,))
    sliding = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, architecture=facts))
    with pytest.raises(InputError, match="sliding windows.*use --target onnxruntime"):
        prepare(sliding, TensorRtOptions())


def test_a_stripped_engine_needs_the_bundles_own_weights(bundle):
    with pytest.raises(InputError, match="leave one of the two out"):
        prepare(bundle, TensorRtOptions(strip=True, refit="identical", precision="fp16"))
    assert not prepare(bundle, TensorRtOptions(strip=True, refit="identical", precision="fp32")).converted


FACTS = Architecture(
    num_layers=4,
    num_visual=8,
    vision_inputs=(),
    num_planes=0,
    position_axes=1,
    patches_per_token=1,
    visual_tokens=(4,),
    hidden_size=100,
    sliding_layers=(),
    num_kv_heads=2,
    head_dim=10,
    vocab_size=50,
    eos_token_ids=(2,),
    dtype="float16",
)
SCHEDULE = Schedule(num_layers=4, drops=(Drop(layer=1, keep=(1, 2)),))


def sizes(weights, **settings):
    settings = {"dtype": "float16", "batch": 3, "tokens": 1000, "capacities": (1200, 700)} | settings
    return estimate(weights, FACTS, SCHEDULE, **settings)


def test_the_estimate_is_what_it_says():
    found = sizes({"vision": GIB, "prefill": 4 * GIB, "decode": 4 * GIB})
    # One layer of capacity 1200, three of 700; keys and values, three rows, two heads of ten numbers, two bytes; twice.
    assert found.kv_cache == (1200 + 3 * 700) * 2 * 3 * 2 * 10 * 2 * 2
    assert found.activations == 3 * 1000 * (12 * 100 * 2 + 1000)
    assert found.build_host == 3 * 4 * GIB + GIB
    assert found.build_device == 5 * GIB + found.kv_cache + 2 * found.activations
    assert found.run_device == 10 * GIB + found.kv_cache + 2 * found.activations
    whole = sizes({"vision": GIB, "prefill": 4 * GIB, "decode": 4 * GIB}, dtype="float32")
    # Ten heads' scores beside the hidden states.
    assert whole.activations == 3 * 1000 * (12 * 100 * 4 + 1000 + 10 * 1000 * 4)
    limited = sizes({"vision": GIB, "prefill": 4 * GIB, "decode": 4 * GIB}, workspace=10)
    assert found.run_device - limited.run_device == found.activations - 10


def test_too_little_memory_is_refused_with_advice():
    found = sizes({"vision": GIB, "prefill": 14 * GIB, "decode": 14 * GIB})
    found.check(host=44 * GIB, device=40 * GIB, streaming=False, where="b")
    found.check(host=None, device=None, streaming=False, where="b")
    with pytest.raises(MissingError, match="43.0 GiB of host memory, 8.0 GiB are free; build on a machine"):
        found.check(host=8 * GIB, device=None, streaming=False, where="b")
    with pytest.raises(MissingError, match="device memory, 24.0 GiB are free; use precision"):
        found.check(host=None, device=24 * GIB, streaming=False, where="b")
    found.check(host=None, device=24 * GIB, streaming=True, where="b")
    caches = sizes({"vision": 1, "prefill": 1, "decode": 1}, capacities=(10**8, 10**8))
    with pytest.raises(MissingError, match="lower max_batch"):
        caches.check(host=None, device=GIB, streaming=False, where="b")


def test_weights_are_counted_in_the_type_that_is_built(bundle):
    model = onnx.load(bundle.graph("prefill"), load_external_data=False)
    external = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "length"
    ]
    inline = weight_bytes(model, "float32") - sum(external)
    assert len(external) > 20 and 0 <= inline < 4096
    assert weight_bytes(model, "float16") - sum(external) // 2 <= inline


NODES = (VitcopNode(name="node_a", op="KNormSelect", plugin=True), VitcopNode(name="node_b", op="Other", plugin=False))


@pytest.mark.parametrize(
    "report",
    [
        {"Layers": ["x", "node_a"]},
        {"Layers": [{"Name": "node_a", "LayerType": "PluginV3"}]},
        {"Layers": [{"Name": "cast + node_a", "LayerType": "PluginV3"}]},
    ],
)
def test_a_plugin_layer_is_found(report):
    check_plugin_layers(report, NODES, "prefill")
    assert any("node_a" in name for name in layer_names(report))


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"Layers": ["x", "node_a_2", "other_node_a"]},
        {"Layers": [{"Name": "node_a", "LayerType": "kgen"}]},
    ],
)
def test_a_build_without_the_plugin_layer_fails(report):
    with pytest.raises(InputError, match="no plugin layer for node_a .KNormSelect."):
        check_plugin_layers(report, NODES, "prefill")


def test_selector_share():
    times = {"a": 6.0, "node_a": 2.0}
    assert selector_share(times, NODES[:1]) == 0.25 and selector_share(times, ()) == 0.0
    assert selector_share(times, NODES) is None and selector_share({"a": 1.0}, NODES[:1]) is None


def test_every_attention_may_be_taken_apart(bundle):
    from vitcop.export.runtimes.tensorrt.network import load_graph, parser_bytes

    for part in ("vision", "prefill", "decode"):
        model = load_graph(bundle.graph(part))
        found = onnx.load_from_string(parser_bytes(model))
        attentions = [node for node in found.graph.node if node.op_type == "Attention"]
        assert attentions
        for node in attentions:
            assert {item.name: item.i for item in node.attribute}["TRT_decomposable"] == 1
        assert all(item.name != "TRT_decomposable" for node in model.graph.node for item in node.attribute)


def test_nodes_without_a_name_get_one(bundle, tmp_path):
    from vitcop.export.runtimes.tensorrt.network import load_graph

    model = onnx.load(bundle.graph("prefill"), load_external_data=False)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "prefill.onnx")
    names = [node.name for node in vitcop_nodes(load_graph(tmp_path / "prefill.onnx"))]
    assert all(names) and len(set(names)) == len(names)
