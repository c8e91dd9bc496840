"""Layer-wise differences: marking, comparing, and the half of polygraphy's work that needs no TensorRT."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from vitcop.export.runtimes.engine_folder import SCHEMA_VERSION
from vitcop.export.runtimes.tensorrt import layerwise
from vitcop.export.runtimes.tensorrt.layerwise import TensorGap, first_gap, gaps_between, marked_graph, tensor_gaps
from vitcop.export.runtimes.tensorrt.sidecar import MachineFacts
from vitcop.plugins.errors import MissingError


def test_without_polygraphy_it_says_what_to_install(bundle, monkeypatch):
    monkeypatch.setattr(layerwise, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"polygraphy: pip install 'vitcop\[tensorrt\]'"):
        tensor_gaps(bundle, "vision", {})


def test_watched_tensors_are_outputs_of_a_sound_graph(bundle):
    for part in ("vision", "prefill"):
        with marked_graph(bundle, part) as (path, watched):
            model = onnx.load(path, load_external_data=False)
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            outputs = [item.name for item in model.graph.output]
            assert set(watched) <= set(outputs) and len(outputs) == len(set(outputs))
            assert {"Attention", "MatMul"} <= set(watched.values()) and len(watched) > 8
        assert not path.exists()


def test_a_converted_graph_is_marked_and_runs_in_its_type(bundle, make_batch):
    import onnxruntime

    feeds = layerwise.prompt_feeds(bundle, make_batch(2))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    for part in ("vision", "prefill"):
        with marked_graph(bundle, part, "float16") as (path, watched):
            assert path.parent.parent == bundle.engines_folder
            given = layerwise.feeds_for(path, feeds[part])
            session = onnxruntime.InferenceSession(str(path), settings)
            found = dict(zip([item.name for item in session.get_outputs()], session.run(None, given), strict=True))
        assert any(found[name].dtype == np.float16 for name in watched)
        with marked_graph(bundle, part) as (path, _):
            session = onnxruntime.InferenceSession(str(path), settings)
            wide = dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds[part]), strict=True))
        assert not any(array.dtype == np.float16 for array in wide.values())
    assert not list(bundle.engines_folder.glob(".*"))


def test_weights_are_linked_and_not_copied(bundle):
    with marked_graph(bundle, "vision") as (path, _):
        for record in bundle.manifest.weights.files:
            assert (path.parent / record.name).samefile((bundle.weights_folder / record.name).resolve())


HERE = MachineFacts(tensorrt="11.4.0.106", cuda="13.0", driver="580.1", sm="9.0", plugin_sha256=None)


@pytest.fixture
def engines(bundle, tmp_path, monkeypatch):
    """A function that puts down engine.json of an engine of this bundle, each newer than the one before."""
    import json
    import os

    from vitcop.export.bundle import GRAPHS, Bundle

    graphs = {part: bundle.graph_hash(part) for part in GRAPHS}
    monkeypatch.setattr(Bundle, "engines_folder", tmp_path)
    count = iter(range(100))

    def put(dtype, sm="9.0", graphs=graphs):
        number = next(count)
        folder = tmp_path / "tensorrt" / f"engine{99 - number}"
        folder.mkdir(parents=True)
        options = {"version_compatible": False, "hardware_compatibility": "none", "serialize_plugin": False}
        told = {"schema_version": SCHEMA_VERSION, "target": "tensorrt", "machine": {**vars(HERE), "sm": sm}}
        told |= {"inputs": {"graphs": graphs, "dtype": dtype, "options": options}}
        (folder / "engine.json").write_text(json.dumps(told))
        os.utime(folder / "engine.json", (1000 + number, 1000 + number))

    return put


def test_the_type_is_the_newest_fitting_engines(bundle, engines):
    assert layerwise.engine_dtype(bundle, HERE) == "float32"
    engines("float32")
    engines("float16")
    engines("bfloat16", sm="8.0")
    engines("bfloat16", graphs={"vision": "others"})
    assert layerwise.engine_dtype(bundle, HERE) == "float16"


def test_both_sides_run_in_the_engines_type(bundle, make_batch, engines, monkeypatch):
    asked = []
    monkeypatch.setattr(layerwise.MachineFacts, "here", lambda plugin: HERE)
    monkeypatch.setattr(layerwise, "tensor_gaps", lambda bundle, part, feeds, dtype: asked.append((part, dtype)) or [])
    engines("float16")
    lines = layerwise.locate_export_loss(bundle, make_batch(1))
    assert asked == [("vision", "float16"), ("prefill", "float16")] and all("in float16" in line for line in lines)
    asked.clear()
    (line,) = layerwise.locate_export_loss(bundle, make_batch(1), "bfloat16")
    assert not asked and "cannot on a CPU" in line


def test_plugins_are_loaded_before_a_graph_is_parsed(bundle, monkeypatch):
    from pathlib import Path

    import fake_tensorrt

    from vitcop.export.runtimes.tensorrt.network import load_plugins, vitcop_nodes

    fake_tensorrt.install(monkeypatch)
    nodes = vitcop_nodes(layerwise.load_graph(bundle.graph("prefill")))
    with pytest.raises(MissingError, match="the plugin library is not built"):
        load_plugins(nodes, None)
    library = Path(np._core._multiarray_umath.__file__)
    load_plugins(nodes, library)
    assert [str(library)] == fake_tensorrt.LOADED


def test_gaps_and_the_first_of_them():
    ours = {"a": np.ones((2, 2)), "b": np.full(3, 4.0), "c": np.ones(2), "d": np.ones(2)}
    theirs = {"a": np.ones((2, 2)), "b": np.array([4.0, 4.5, 4.0]), "c": np.ones(3), "d": np.array([1.0, np.nan])}
    gaps = gaps_between(ours, theirs, {"a": "MatMul", "b": "Attention", "c": "MatMul", "d": "MatMul"})
    assert [gap.deviation for gap in gaps] == [0.0, 0.5, np.inf, np.inf]
    assert first_gap(gaps) == TensorGap(name="b", op="Attention", deviation=0.5, magnitude=4.0)
    assert first_gap(gaps[:1]) is None


@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy (extra tensorrt) is not installed")
def test_polygraphy_runs_a_marked_graph(bundle, make_batch):
    batch = make_batch(2)
    names = [item.name for item in onnx.load(bundle.graph("vision"), load_external_data=False).graph.input]
    feeds = {name: batch.vision_inputs[name] for name in names}
    with marked_graph(bundle, "vision") as (path, watched):
        first, second = (layerwise.onnxruntime_runner(path) for _ in range(2))
        second.name = "again"
        ours, theirs = layerwise.run_both([first, second], feeds)
    assert first_gap(gaps_between(ours, theirs, watched)) is None


def test_the_inputs_of_both_graphs(bundle, make_batch):
    feeds = layerwise.prompt_feeds(bundle, make_batch(2))
    for part, given in feeds.items():
        model = onnx.load(bundle.graph(part), load_external_data=False)
        assert set(given) == {item.name for item in model.graph.input}
        for item in model.graph.input:
            assert given[item.name].ndim == len(item.type.tensor_type.shape.dim)


def test_verify_says_where_an_engine_parts(bundle, monkeypatch, tmp_path):
    """On a failed gate of the engine, and only where the target can look."""
    from types import SimpleNamespace
    from unittest.mock import Mock

    from PIL import Image

    from vitcop.calibrate.data.samples import load_samples
    from vitcop.pipeline.steps import verify

    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text('{"id": "1", "images": ["a.png"], "prompt": "what ?"}\n')
    samples, notes = load_samples(tmp_path / "a.jsonl"), []
    console = SimpleNamespace(note=notes.append)
    verify._locate(bundle, SimpleNamespace(), samples, console)
    assert notes == []
    target = SimpleNamespace(locate_export_loss=lambda bundle, batch: [f"vision: {batch.num_visual} tokens"])
    verify._locate(bundle, target, samples, console)
    assert notes == ["export loss: vision: 16 tokens"]

    # Whatever keeps the look from succeeding, the verdict stands.
    for error in (MissingError("no polygraphy here"), ValueError("a bug of ours")):
        notes.clear()
        verify._locate(bundle, SimpleNamespace(locate_export_loss=Mock(side_effect=error)), samples, console)
        assert notes == [f"export loss: not located: {error}"]
