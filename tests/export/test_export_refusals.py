"""A graph of another form than a pass needs is refused, with the pass and the place in the message; so are schedules
that cannot be exported."""

import operator
import sys
from dataclasses import replace

import pytest
import torch
from export_cases import PAPER, duplicate, vision_pass
from tensorrt_checks import checked
from torch import fx

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.models.loading import load_config, load_processor
from vitcop.calibrate.models.schedule_check import check_schedule
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.bundle import Bundle
from vitcop.export.capture.attention import ATTENTION
from vitcop.export.capture.skeleton import load_skeleton
from vitcop.export.compile import export_bundle, whole_counts
from vitcop.export.rewrite import DropTokensPass, Pass, PassError, Sequence, SplitCachePass
from vitcop.export.rewrite.boundary import Boundary, is_inside
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner
from vitcop.pipeline.steps.export import export
from vitcop.plugins.errors import InputError

aten = torch.ops.aten


def rename(graph, path, new):
    """Let every node of the module at `path` say that it stands at `new`."""
    for node in graph.module.graph.nodes:
        if is_inside(node, path):
            stack = node.meta["nn_module_stack"]
            node.meta = {**node.meta, "nn_module_stack": {k: (p.replace(path, new), m) for k, (p, m) in stack.items()}}


@pytest.mark.parametrize("layer", [1, 2])
def test_a_layer_that_is_not_there(captured, layer):
    graph, path = duplicate(captured.graphs["prefill"]), captured.paths.layers[layer]
    rename(graph, path, "model.elsewhere")
    with pytest.raises(PassError, match=f"^DropTokensPass at {path}: expected .*, found (none in the graph|0)$"):
        DropTokensPass(PAPER, captured.paths)(graph)


def test_a_decode_layer_that_is_not_there(captured):
    graph, path = duplicate(captured.graphs["decode"]), captured.paths.layers[2]
    rename(graph, path, "model.elsewhere")
    with pytest.raises(PassError, match=f"^SplitCachePass at {path}: expected a decoder layer"):
        SplitCachePass(PAPER, captured.paths)(graph)


def test_a_vision_graph_without_index_tables(captured):
    graph = duplicate(captured.graphs["vision"])
    graph.inputs["visual_rows"] = replace(graph.inputs["visual_rows"], axes={})
    with pytest.raises(PassError, match="^VisionStagePass at the vision graph: expected index tables"):
        vision_pass(captured, PAPER)(graph)


def test_two_attention_nodes_in_one_layer(captured):
    graph, path = duplicate(captured.graphs["prefill"]), captured.paths.layers[0]
    node = next(node for node in graph.module.graph.nodes if node.target is ATTENTION and is_inside(node, path))
    with graph.module.graph.inserting_after(node):
        graph.module.graph.node_copy(node)
    with pytest.raises(PassError, match=f"^DropTokensPass at {path}: expected one Attention node, found 2"):
        DropTokensPass(PAPER, captured.paths)(graph)


def test_no_attention_node_in_a_layer(captured):
    graph, path = duplicate(captured.graphs["prefill"]), captured.paths.layers[1]
    for node in graph.module.graph.nodes:
        if node.target is ATTENTION and is_inside(node, path):
            node.target = operator.add
    with pytest.raises(PassError, match=f"^DropTokensPass at {path}: expected one Attention node, found 0"):
        DropTokensPass(PAPER, captured.paths)(graph)


def cross(graph, path, make):
    """Let a value made by `make` from the hidden states before the layer at `path` be read inside it.

    `make(fx_graph, hidden)` returns the node, with the meta of its value; the reader is an addition in the layer.
    """
    fxg = graph.module.graph
    boundary = Boundary.before(fxg, path)
    hidden = next(node for node in boundary.crossing if node.target is aten.add.Tensor)
    with fxg.inserting_before(boundary.first):
        made = make(fxg, hidden)
    with fxg.inserting_after(boundary.first):
        reader = fxg.call_function(operator.add, (boundary.first, made))
    reader.meta = {"nn_module_stack": boundary.first.meta["nn_module_stack"]}
    return made


def doubled(fxg: fx.Graph, hidden: fx.Node) -> fx.Node:
    """[B,2·S,H]."""
    node = fxg.call_function(aten.cat.default, ([hidden, hidden], 1))
    node.meta = {"val": torch.cat([hidden.meta["val"]] * 2, dim=1)}
    return node


def doubled_length(fxg: fx.Graph, hidden: fx.Node) -> fx.Node:
    """2·S as the size of a computed value."""
    rows = doubled(fxg, hidden)
    node = fxg.call_function(aten.sym_size.int, (rows, 1))
    node.meta = {"val": rows.meta["val"].shape[1]}
    return node


def second_stream(fxg: fx.Graph, hidden: fx.Node) -> fx.Node:
    """A second [B,S,H] beside the hidden states."""
    node = fxg.call_function(aten.neg.default, (hidden,))
    node.meta = {"val": -hidden.meta["val"]}
    return node


@pytest.mark.parametrize("make", [doubled, doubled_length, second_stream])
def test_what_may_not_cross_a_drop_point(captured, make):
    graph, path = duplicate(captured.graphs["prefill"]), captured.paths.layers[2]
    made = cross(graph, path, make)
    with pytest.raises(PassError, match=f"^DropTokensPass at {path}: expected ") as error:
        DropTokensPass(replace(PAPER, drops=PAPER.drops[1:]), captured.paths)(graph)
    assert made.name in str(error.value)


class Nothing(Pass):
    def call(self, graph):
        pass


def test_a_sequence_names_the_passes_that_already_ran(captured):
    graph = duplicate(captured.graphs["prefill"])
    rename(graph, captured.paths.layers[1], "model.elsewhere")
    with pytest.raises(PassError, match=r"^DropTokensPass at .*found 0 \(passes already run: Nothing, Nothing\)$"):
        Sequence(Nothing(), Nothing(), DropTokensPass(PAPER, captured.paths), Nothing())(graph)
    with pytest.raises(PassError, match=r"passes already run: none\)$"):
        Sequence(DropTokensPass(PAPER, captured.paths))(graph)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(num_layers=3), "the schedule is for 3 layers, .* has 2: calibrate"),
        (
            Schedule(num_layers=2, model_id="other", config_hash="0" * 64),
            "the schedule is for model 'other' .config 000000000000., .*: calibrate",
        ),
    ],
)
def test_schedules_that_cannot_be_exported(two_layers, tmp_path, schedule, message):
    with pytest.raises(InputError, match=message):
        export_bundle(two_layers, schedule, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_right_config_hash_is_accepted(two_layers):
    checkpoint = Checkpoint.open(two_layers)
    schedule = Schedule(num_layers=2, config_hash=checkpoint.config_hash)
    check_schedule(schedule, checkpoint, family_of(load_config(two_layers)))


def test_an_export_checks_its_schedule_once(two_layers, tmp_path, monkeypatch):
    file, checks = tmp_path / "schedule.json", []
    file.write_text(Schedule(num_layers=2).to_json())
    for module in [module for name, module in sys.modules.items() if name.startswith("vitcop.")]:
        if (check := getattr(module, "check_schedule", None)) is not None:

            def checked(*args, check=check, **named):
                checks.append(named.get("source"))
                check(*args, **named)

            monkeypatch.setattr(module, "check_schedule", checked)
    export(two_layers, file, tmp_path / "bundle")
    assert checks == [str(file)]


def test_a_refused_schedule_is_named_by_its_file(two_layers, tmp_path):
    file = tmp_path / "deep.json"
    file.write_text(Schedule(num_layers=5).to_json())
    with pytest.raises(InputError, match=r"^/.*deep\.json is for 5 layers, .* has 2: calibrate"):
        export(two_layers, file, tmp_path / "bundle")


def test_a_refused_export_leaves_nothing_behind(two_layers, tmp_path):
    with pytest.raises(InputError, match="the schedule is for 5 layers"):
        export_bundle(two_layers, Schedule(num_layers=5), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_fraction_that_leaves_nothing_becomes_one_token():
    drops = (Drop(layer=1, keep=(1, 2)), Drop(layer=2, keep=(1, 9)), Drop(layer=3, keep=(1, 2)))
    schedule = Schedule(num_layers=4, drops=drops)
    found = whole_counts(schedule, 16)
    assert [drop.keep for drop in found.drops] == [(1, 2), (1, 8), (1, 1)]
    assert found.group_counts(16) == schedule.group_counts(16) == (16, 8, 1, 1)
    assert whole_counts(schedule, 36) == schedule, "36 → 18 → 2 → 1 needs no help"


def test_other_numbers_of_tokens_where_a_fraction_leaves_less_than_one(
    two_layers, captures, make_batch, pictures, tmp_path
):
    schedule = Schedule(num_layers=2, drops=(Drop(layer=1, keep=(1, 20)),))
    bundle = checked(Bundle.open(export_bundle(two_layers, schedule, tmp_path / "bundle", captures=captures)))
    processor, family = load_processor(two_layers), load_skeleton(Checkpoint.open(two_layers)).family
    runner = OnnxRuntimeRunner(bundle)
    assert runner.prefill(make_batch(processor, family, 1)).drops[0].kept_visual.shape == (1, 1)
    two = family.prepare(processor, ["USER: <image> or <image> ASSISTANT:"], [pictures[:2]])
    with pytest.raises(InputError, match="takes prompts of 16 visual tokens alone, not of 32"):
        runner.prefill(two)
