"""The dry run, and the static check that it shares with the build: without TensorRT, and over the stand-in."""

import json
import sys
from pathlib import Path

import fake_tensorrt
import numpy as np
import onnx
import pytest

from vitcop.export.bundle import GRAPHS
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.tensorrt import builder, dry_run, preparation
from vitcop.export.runtimes.tensorrt.network import load_graph
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import converted_graph, operator_problems, prepare
from vitcop.plugins.errors import InputError

LIBRARY = Path(np._core._multiarray_umath.__file__)
"""Some shared library in the plugin's place."""


@pytest.fixture
def no_tensorrt(monkeypatch):
    """A machine on which `import tensorrt` fails, whatever this one has."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def with_library(monkeypatch):
    monkeypatch.setattr(dry_run, "plugin_library", lambda needed: LIBRARY if needed else None)


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(dry_run, "plugin_library", lambda needed: None)


@pytest.fixture
def strange(monkeypatch):
    """Ten nodes in prefill that no table knows."""

    def with_unknown(path):
        model = load_graph(path)
        for index in range(10) if path.name == "prefill.onnx" else ():
            model.graph.node.add(
                op_type="Unique", name=f"strange_{index}", input=["input_ids"], output=[f"strange_out_{index}"]
            )
        return model

    monkeypatch.setattr(preparation, "load_graph", with_unknown)


@pytest.fixture
def tensorrt(monkeypatch):
    """The stand-in with a parser that only looks; gives the graphs that it was shown."""
    shown = []

    def supports_model_v2(self, model, path=None):
        shown.append(onnx.load_from_string(model))
        return True

    fake_tensorrt.install(monkeypatch)
    monkeypatch.setattr(fake_tensorrt.OnnxParser, "supports_model_v2", supports_model_v2, raising=False)
    return shown


def operations(rows):
    return {op for nodes in rows.values() for _, op in nodes}


def test_without_tensorrt_it_says_who_answered(bundle, no_tensorrt, with_library):
    found = open_target("tensorrt").dry_run(bundle, {"max_batch": 2})
    assert found.passed and "static tables" in found.checked_by and "not by TensorRT itself" in found.checked_by
    assert "no registry" in found.plugins_by and str(LIBRARY) in found.plugins_by
    wanted = {"VisionSaliency", "ScoreSelect", "DensityPeakClusters", "ClusterMergePlan", "KNormSelect"}
    assert wanted <= operations(found.plugin_nodes) and not operations(found.waiting_nodes)
    assert found.profiles["prefill"]["input_ids"][2][0] == 2
    text = found.text()
    assert "plugin: " in text and "KV caches" in text and "prefill: no unsupported nodes" in text
    (missing,) = found.missing
    assert "pip install tensorrt" in missing and "would end with status 4: target tensorrt needs" in text
    json.dumps(found.to_dict())


def test_without_a_plugin_library_its_nodes_wait_for_one(bundle, no_tensorrt, without_library):
    found = open_target("tensorrt").dry_run(bundle)
    assert "KNormSelect" in operations(found.waiting_nodes) and not operations(found.plugin_nodes)
    assert "needs `make plugin`: " in found.text() and "\n  plugin: " not in found.text()
    assert any("run: make plugin" in line for line in found.missing)


def test_every_unsupported_node_is_listed_once_with_its_releases(bundle, strange, no_tensorrt):
    found = open_target("tensorrt").dry_run(bundle)
    assert not found.passed and len(found.unsupported["prefill"]) == 10 and not found.unsupported["decode"]
    for index, line in enumerate(found.unsupported["prefill"]):
        assert f"Unique 'strange_{index}'" in line and "(TensorRT 10.15 and 11)" in line
        assert line in found.text()


def test_a_build_refuses_them(bundle, strange):
    with pytest.raises(InputError, match=r"prefill: Unique 'strange_0'[^~]*and 2 more, which --dry-run lists"):
        builder.build(bundle, TensorRtOptions())


def test_what_only_one_release_lacks_says_so():
    node = onnx.helper.make_node("Swish", ["x"], ["y"], name="only_11")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    (line,) = operator_problems(model)
    assert line.startswith("Swish 'only_11'") and "(TensorRT 10.15)" in line


def test_over_tensorrt_the_registry_tells_of_the_plugins(bundle, tensorrt, with_library, monkeypatch):
    asked = []

    def get_creator(self, type, version, plugin_namespace=""):
        asked.append((type, version, plugin_namespace))
        return None if type == "KNormSelect" else object()

    monkeypatch.setattr(fake_tensorrt.IPluginRegistry, "get_creator", get_creator)
    found = open_target("tensorrt").dry_run(bundle)
    assert found.checked_by.startswith("TensorRT 11.") and found.plugins_by == "the registry of TensorRT"
    assert operations(found.waiting_nodes) == {"KNormSelect"} and "ScoreSelect" in operations(found.plugin_nodes)
    assert [str(LIBRARY)] == fake_tensorrt.LOADED and ("KNormSelect", "1", "vitcop") in asked
    (missing,) = found.missing
    assert missing.startswith(f"{LIBRARY} has no plugins for KNormSelect")


@pytest.mark.parametrize(("precision", "kind"), [(None, 1), ("fp16", 10), ("bf16", 16)])
def test_the_parser_is_shown_what_would_be_built(bundle, tensorrt, with_library, precision, kind):
    assert open_target("tensorrt").dry_run(bundle, {"precision": precision} if precision else {}).passed
    _vision, prefill, decode = tensorrt
    inputs = [item.name for item in decode.graph.input]
    assert "attended_0" in inputs and "past_key_0" not in inputs
    types = {item.name: item.type.tensor_type.elem_type for item in (*prefill.graph.input, *decode.graph.input)}
    assert types["visual_features"] == types["attended_0"] == kind
    tensorrt.clear()
    open_target("tensorrt").dry_run(bundle, {"kv_cache": "plain"})
    assert "past_key_0" in [item.name for item in tensorrt[2].graph.input]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_graph_to_look_at_is_the_one_that_conversion_writes(bundle, tmp_path, dtype):
    from vitcop.export.runtimes.tensorrt.precision import convert_graph

    for part in GRAPHS:
        seen = converted_graph(bundle, part, dtype)
        convert_graph(bundle.graph(part), tmp_path / f"{part}.onnx", dtype)
        written = load_graph(tmp_path / f"{part}.onnx")
        assert list(map(repr, seen.graph.node)) == list(map(repr, written.graph.node))
        types = [
            [(item.name, item.data_type, list(item.dims)) for item in m.graph.initializer] for m in (seen, written)
        ]
        assert types[0] == types[1]
        external = [item for item in seen.graph.initializer if item.external_data]
        assert external
        for item in external:
            told = {entry.key: entry.value for entry in item.external_data}
            size = int(told["length"])
            wide = 8 if item.data_type == onnx.TensorProto.INT64 else 2
            assert size == wide * np.prod(item.dims)
            assert int(told["offset"]) + size <= (bundle.weights_folder / told["location"]).stat().st_size


def test_the_static_check_sees_the_converted_graphs(bundle, monkeypatch):
    seen = []
    monkeypatch.setattr(preparation, "operator_problems", lambda model: seen.append(model) or ())
    prepare(bundle, TensorRtOptions(precision="bf16"))
    for model in seen:
        kinds = {item.data_type for item in model.graph.initializer if item.external_data}
        assert kinds == {onnx.TensorProto.BFLOAT16}
    assert len(seen) == len(GRAPHS)
