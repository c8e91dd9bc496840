"""No consumer behind a drop point reads an unpruned value; shapes after the trace are symbolic and each group's own."""

from dataclasses import replace

import pytest
import torch
from export_cases import PAPER, SCHEDULES, drop_points, duplicate
from graph_checks import SIZES, concrete, drop_nodes, layer_of, stack_of, symbol_values, unpruned_reads, wrong_lengths
from torch import SymInt

from vitcop.export.capture.attention import ATTENTION

aten, vitcop = torch.ops.aten, torch.ops.vitcop


def without_vision(schedule):
    """Counts chain from the visual tokens at LLM input, whatever the vision stage did."""
    return replace(schedule, vision=schedule.vision and replace(schedule.vision, keep=(1, 1)))


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if schedule.drops])
def test_nothing_unpruned_is_read_behind_a_drop_point(captured, name):
    schedule = SCHEDULES[name]
    assert unpruned_reads(drop_points(captured, schedule), without_vision(schedule), captured.paths) == []


def first_read(graph, paths, layer, target):
    """The first node of a layer with a target, of the rewritten graph."""
    return next(n for n in graph.module.graph.nodes if layer_of(n, paths) == layer and n.target is target)


def residuals(graph, path):
    """The two residual additions of a decoder layer."""
    return [n for n in graph.module.graph.nodes if n.target is aten.add.Tensor and stack_of(n) == path]


def test_the_check_sees_a_residual_that_goes_on_with_the_old_hidden_states(captured, paper_drops):
    graph = duplicate(paper_drops)
    residual, old = residuals(graph, captured.paths.layers[1])[0], residuals(graph, captured.paths.layers[0])[1]
    residual.args = (old, *residual.args[1:])
    (read,) = unpruned_reads(graph, without_vision(PAPER), captured.paths)
    assert read == f"layer 1: {residual.name} reads {old.name}"


@pytest.mark.parametrize("source_layer", [0, 1])
def test_the_check_sees_the_mask_of_an_earlier_group(captured, paper_drops, source_layer):
    graph = duplicate(paper_drops)
    attention = first_read(graph, captured.paths, 2, ATTENTION)
    old = first_read(graph, captured.paths, source_layer, ATTENTION).args[3]
    assert attention.args[3] is not old
    attention.args = (*attention.args[:3], old)
    reads = unpruned_reads(graph, without_vision(PAPER), captured.paths)
    assert reads == [f"layer 2: {attention.name} reads {old.name}"]


def test_the_check_sees_rotary_tables_of_an_earlier_group(captured, paper_drops):
    graph = duplicate(paper_drops)
    table, old = (first_read(graph, captured.paths, layer, aten.unsqueeze.default) for layer in (2, 0))
    table.args = (old.args[0], *table.args[1:])
    reads = unpruned_reads(graph, without_vision(PAPER), captured.paths)
    assert f"layer 2: {table.name} reads {old.args[0].name}" in reads


def test_the_check_sees_the_length_of_an_earlier_group(captured, paper_drops):
    graph = duplicate(paper_drops)
    view, old = (first_read(graph, captured.paths, layer, aten.view.default) for layer in (2, 0))
    view.args = (view.args[0], old.args[1])
    (read,) = unpruned_reads(graph, without_vision(PAPER), captured.paths)
    assert read.startswith(f"layer 2: {view.name} reads sym_size")


def test_drops_stand_in_order_and_each_reads_what_the_one_before_it_left(captured, paper_drops):
    merge, select = drop_nodes(paper_drops)
    assert merge.target is vitcop.cluster_merge_plan.default
    assert select.target is vitcop.knorm_select.default
    assert select.args[1].args == (merge, 1), "the second drop starts from the visual index of the first"


def test_sizes_after_the_trace_are_each_groups_own(captured, paper_traced):
    assert wrong_lengths(paper_traced, without_vision(PAPER), captured.paths) == []
    assert unpruned_reads(paper_traced, without_vision(PAPER), captured.paths) == []


def test_the_length_check_sees_a_value_of_another_group(captured, paper_traced):
    graph = duplicate(paper_traced)
    attention = first_read(graph, captured.paths, 2, ATTENTION)
    attention.meta["val"] = first_read(graph, captured.paths, 0, ATTENTION).meta["val"]
    assert wrong_lengths(graph, without_vision(PAPER), captured.paths)


def test_output_shapes_after_the_trace_are_symbolic(paper_traced):
    values = symbol_values(paper_traced)
    output = next(node for node in paper_traced.module.graph.nodes if node.op == "output")
    shapes = dict(zip(paper_traced.outputs, (node.meta["val"].shape for node in output.args[0]), strict=True))
    counts = [SIZES["visual"], SIZES["visual"] * 3 // 4, SIZES["visual"] * 3 // 8]
    for name, shape in shapes.items():
        assert isinstance(shape[0], SymInt), name
        assert concrete(shape[0], values) == SIZES["batch"]
        kind, index = name.rsplit("_", 1) if name != "logits" else (name, "0")
        if kind == "logits":
            assert shape[1:] == (1, 50)
        elif kind.startswith("present"):
            assert isinstance(shape[2], SymInt)
            assert concrete(shape[2], values) == SIZES["sequence"] - SIZES["visual"] + counts[int(index)]
        else:
            assert isinstance(shape[1], SymInt)
            assert concrete(shape[1], values) == counts[int(index) + 1], name
