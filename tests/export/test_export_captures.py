"""Several exports of one model from the same captures."""

import pytest
from export_cases import ONE_MERGE
from tiny_models import build_tiny_llava

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.capture import capture_decode, capture_prefill, capture_vision
from vitcop.export.capture.captures import Captures
from vitcop.export.compile import export_bundle


@pytest.mark.parametrize("part", ["vision", "prefill", "decode"])
def test_a_copy_is_the_graph_as_it_was_captured(captured, part):
    """However other copies were edited; captured graphs themselves are never edited here (`duplicate`)."""
    graph = captured.graphs[part]
    edited, copy = graph.copied(), graph.copied()
    output = next(node for node in edited.module.graph.nodes if node.op == "output")
    output.args = ((),)
    edited.module.graph.eliminate_dead_code()
    edited.outputs.clear()
    edited.inputs.clear()
    edited.minimum["visual"] = 99
    for found in (copy, graph.copied()):
        assert str(found.module.graph) == str(graph.module.graph) != str(edited.module.graph)
        assert found.outputs == graph.outputs and list(found.inputs) == list(graph.inputs)
        assert found.minimum == graph.minimum


@pytest.mark.slow
def test_shared_captures_give_the_graphs_of_single_exports(two_layers, tmp_path, monkeypatch):
    """A drop first, so that what it did to its copies would show in the next ones."""
    schedules = {"merged": ONE_MERGE, "plain": Schedule(num_layers=2)}
    single = {name: export_bundle(two_layers, each, tmp_path / name) for name, each in schedules.items()}
    calls = []

    def counted(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(f"vitcop.export.compile.{name}", call)

    for function in (capture_vision, capture_prefill, capture_decode):
        counted(function.__name__, function)
    captures = Captures()
    drop = Schedule(num_layers=2, drops=(Drop(layer=1, keep=(1, 4)),))
    export_bundle(two_layers, drop, tmp_path / "drop", captures=captures)
    for name, schedule in schedules.items():
        shared = export_bundle(two_layers, schedule, tmp_path / f"{name}-shared", captures=captures)
        for part in GRAPHS:
            found, expected = (Bundle.open(path).graph(part).read_bytes() for path in (shared, single[name]))
            assert found == expected, f"{name}: {part}"
    # The vision graph is captured once as it is and once with what scores are made of.
    assert sorted(calls) == ["capture_decode", "capture_prefill", "capture_vision", "capture_vision"]


def test_captures_of_another_model_are_let_go(two_layers, tmp_path):
    other = build_tiny_llava(tmp_path / "other", layers=3, vision_layers=2)
    captures = Captures()
    first = captures.skeleton(Checkpoint.open(two_layers))
    assert captures.skeleton(Checkpoint.open(two_layers)) is first
    assert captures.skeleton(Checkpoint.open(other)).family.num_layers == 3
    assert captures.skeleton(Checkpoint.open(two_layers)) is not first
