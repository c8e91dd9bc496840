"""SplitCachePass: give each layer group of the decode graph its own KV length."""

from dataclasses import replace

from torch import fx

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.capture.paths import ModulePaths
from vitcop.export.capture.token_graph import GraphInput, TokenGraph
from vitcop.export.rewrite.boundary import Boundary, Rebuild
from vitcop.export.rewrite.passes import Pass

_PER_GROUP = ("attention_mask", "key_places")
"""Inputs [B,P_g+1] of each layer group; the places are there where layers have sliding windows."""


class SplitCachePass(Pass):
    """Layer group g reads `attention_mask_g [B,P_g+1]`, past keys and values of length P_g, and `key_places_g` where it
    has sliding windows.

    What follows from these is rebuilt before the first layer of each group, last group first.
    """

    def __init__(self, schedule: Schedule, paths: ModulePaths) -> None:
        self.schedule, self.paths = schedule, paths

    def call(self, graph: TokenGraph) -> None:
        fxg = graph.module.graph
        kinds = [kind for kind in _PER_GROUP if f"{kind}_0" in graph.inputs]
        inputs = {kind: self._add_placeholders(graph, kind) for kind in kinds}
        for group in range(len(self.schedule.groups) - 1, 0, -1):
            path = self.paths.layers[self.schedule.groups[group].start]
            boundary = Boundary.before(fxg, path)
            if boundary is None:
                raise self.refuse(path, "a decoder layer of this path", "none in the graph")
            with fxg.inserting_before(boundary.first):
                rebuild = Rebuild(fxg, {nodes[0]: nodes[group] for nodes in inputs.values()}, {})
                rebuilt = {node: rebuild.clone(node) for node in boundary.crossing if rebuild.applies_to(node)}
            if not rebuilt:
                raise self.refuse(path, "a value that follows from attention_mask_0 to cross", "none")
            for old, new in rebuilt.items():
                boundary.replace(old, new)
        fxg.eliminate_dead_code()
        unread = [node for nodes in inputs.values() for node in nodes if not node.users]
        for node in unread:
            fxg.erase_node(node)
        self._set_inputs(graph, kinds, {node.name for node in unread})

    def _add_placeholders(self, graph: TokenGraph, kind: str) -> list[fx.Node]:
        """The input of each group, that of group 0 first."""
        nodes = [graph.placeholder(f"{kind}_0")]
        for group in range(1, len(self.schedule.groups)):
            with graph.module.graph.inserting_after(nodes[-1]):
                nodes.append(graph.module.graph.placeholder(f"{kind}_{group}"))
        return nodes

    def _set_inputs(self, graph: TokenGraph, kinds: list[str], unread: set[str]) -> None:
        """Inputs in the order of the placeholders: those of one kind stand together."""
        group_of = {layer: group for group, layers in enumerate(self.schedule.groups) for layer in layers}
        inputs: dict[str, GraphInput] = {}
        for name, spec in graph.inputs.items():
            kind, _, number = name.rpartition("_")
            if kind in kinds:
                for group in range(len(self.schedule.groups)):
                    axes = {0: "batch", 1: f"present_{group}"}
                    inputs[f"{kind}_{group}"] = GraphInput(spec.example.clone(), axes)
            elif name.startswith("past_"):
                inputs[name] = replace(spec, axes={0: "batch", 2: f"past_{group_of[int(number)]}"})
            else:
                inputs[name] = spec
        graph.inputs = {name: spec for name, spec in inputs.items() if name not in unread}
        for group in range(len(self.schedule.groups)):
            graph.minimum |= {f"past_{group}": 2, f"present_{group}": 3}
