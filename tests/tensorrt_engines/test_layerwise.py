"""Layer-wise differences: marking, comparing, and the half of polygraphy's work that needs no TensorRT."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from vitcop.export.runtimes.tensorrt import layerwise
from vitcop.export.runtimes.tensorrt.layerwise import TensorGap, first_gap, gaps_between, marked_graph, tensor_gaps
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

    from vitcop.calibrate.samples import load_samples
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
