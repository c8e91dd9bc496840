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
            model = onnx.load(path)
            onnx.checker.check_model(model)
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
