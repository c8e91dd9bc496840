"""Checks on a rewritten prefill graph that know nothing of how the pass works: which node belongs to which layer, and
what may stand before it."""

from typing import Any

import torch
from torch import SymInt, Tensor, fx

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.capture import TokenGraph
from vitcop.export.capture.paths import ModulePaths

aten, vitcop = torch.ops.aten, torch.ops.vitcop
SELECTORS = (vitcop.knorm_select.default, vitcop.score_select.default, vitcop.cluster_merge_plan.default)
SIZES = {"batch": 3, "sequence": 97, "visual": 50}
"""Lengths at which symbolic sizes are told apart. All S_g, V_g and B differ from each other and from model sizes."""


def stack_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack.values()))[0] if stack else ""


def layer_of(node: fx.Node, paths: ModulePaths) -> int | None:
    """Index of the decoder layer that made the node; L for the final norm and the head; None for everything else."""
    path = stack_of(node)
    for index, layer in enumerate(paths.layers):
        if (path + ".").startswith(layer + "."):
            return index
    decoder = paths.layers[0].rpartition(".layers.")[0]
    return len(paths.layers) if path in (f"{decoder}.norm", "model.lm_head") else None


def drop_nodes(graph: TokenGraph) -> list[fx.Node]:
    """The selections and merges, in order."""
    return [node for node in graph.module.graph.nodes if node.target in SELECTORS]


def descendants(node: fx.Node) -> set[fx.Node]:
    seen, stack = set(), [node]
    while stack:
        for user in stack.pop().users:
            if user not in seen:
                seen.add(user)
                stack.append(user)
    return seen


def symbol_values(graph: TokenGraph) -> dict[Any, int]:
    """Symbol of each dynamic input axis -> its value in SIZES."""
    values = {}
    for name, spec in graph.inputs.items():
        shape = graph.placeholder(name).meta["val"].shape if "val" in graph.placeholder(name).meta else ()
        for axis, size in zip(range(len(shape)), shape, strict=True):
            if axis in spec.axes and isinstance(size, SymInt):
                values[size.node.expr] = SIZES[spec.axes[axis]]
    return values


def concrete(size: Any, values: dict[Any, int]) -> int:
    """A size at SIZES."""
    return int(size.node.expr.subs(values)) if isinstance(size, SymInt) else int(size)


def unpruned_reads(graph: TokenGraph, schedule: Schedule, paths: ModulePaths) -> list[str]:
    """Every read, by a layer behind a drop point, of a value that the drop did not touch. Empty where all is well.

    Weights, the batch size and values that follow from the layer group's own drop may be read.
    """
    selectors, values = drop_nodes(graph), symbol_values(graph)
    assert len(selectors) == len(schedule.drops), (
        f"{len(selectors)} drops in the graph, {len(schedule.drops)} in the schedule"
    )
    touched = [descendants(node) for node in selectors]
    lengths = [count + SIZES["sequence"] - SIZES["visual"] for count in schedule.group_counts(SIZES["visual"])]
    group_of = [g for g, layers in enumerate(schedule.groups) for _ in layers] + [len(schedule.groups) - 1]
    found = []
    for node in graph.module.graph.nodes:
        layer = layer_of(node, paths)
        if layer is None or group_of[layer] == 0:
            continue
        group = group_of[layer]
        for source in node.all_input_nodes:
            if source.op == "get_attr" or source in touched[group - 1]:
                continue
            value = source.meta.get("val")
            if isinstance(value, (int, SymInt)) and concrete(value, values) in (SIZES["batch"], lengths[group]):
                continue
            found.append(f"layer {layer}: {node.name} reads {source.name}")
    return found


def wrong_lengths(graph: TokenGraph, schedule: Schedule, paths: ModulePaths) -> list[str]:
    """Every value of a decoder layer whose shape holds a length of another layer group (where sizes are known)."""
    values = symbol_values(graph)
    lengths = [count + SIZES["sequence"] - SIZES["visual"] for count in schedule.group_counts(SIZES["visual"])]
    group_of = [g for g, layers in enumerate(schedule.groups) for _ in layers]
    found = []
    for node in graph.module.graph.nodes:
        layer, value = layer_of(node, paths), node.meta.get("val")
        if layer is None or layer == len(paths.layers) or node.op == "get_attr":
            continue
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, Tensor):
                sizes = {concrete(size, values) for size in tensor.shape}
                others = set(lengths) - {lengths[group_of[layer]]}
                if sizes & (others | {SIZES["visual"]}):
                    found.append(f"layer {layer}: {node.name} {tuple(tensor.shape)}")
    return found
