"""SplitCachePass: give each layer group of the decode graph its own KV length."""

from dataclasses import replace

from torch import fx

from vitcop.calibrate.schedule import Schedule
from vitcop.export.capture.paths import ModulePaths
from vitcop.export.capture.token_graph import GraphInput, TokenGraph
from vitcop.export.rewrite.boundary import Boundary, Rebuild
from vitcop.export.rewrite.passes import Pass


class SplitCachePass(Pass):
    """Layer group g reads `attention_mask_g [B,P_g+1]` and past keys and values of length P_g.

    What follows from the mask is rebuilt before the first layer of each group, last group first.
    """

    def __init__(self, schedule: Schedule, paths: ModulePaths) -> None:
        self.schedule, self.paths = schedule, paths

    def call(self, graph: TokenGraph) -> None:
        fxg = graph.module.graph
        first_mask = graph.placeholder("attention_mask_0")
        new_masks: list[fx.Node] = []
        after = first_mask
        for group in range(1, len(self.schedule.groups)):
            with fxg.inserting_after(after):
                after = fxg.placeholder(f"attention_mask_{group}")
            new_masks.append(after)
        for group, mask in reversed(list(enumerate(new_masks, start=1))):
            path = self.paths.layers[self.schedule.groups[group].start]
            boundary = Boundary.before(fxg, path)
            if boundary is None:
                raise self.refuse(path, "a decoder layer of this path", "none in the graph")
            with fxg.inserting_before(boundary.first):
                rebuild = Rebuild(fxg, {first_mask: mask}, {})
                rebuilt = {node: rebuild.clone(node) for node in boundary.crossing if rebuild.applies_to(node)}
            if not rebuilt:
                raise self.refuse(path, "a value that follows from attention_mask_0 to cross", "none")
            for old, new in rebuilt.items():
                boundary.replace(old, new)
        self._set_inputs(graph)

    def _set_inputs(self, graph: TokenGraph) -> None:
        """Inputs in the order of the placeholders: the masks of all groups stand together."""
        mask = graph.inputs["attention_mask_0"]
        group_of = {layer: group for group, layers in enumerate(self.schedule.groups) for layer in layers}
        inputs: dict[str, GraphInput] = {}
        for name, spec in graph.inputs.items():
            if name == "attention_mask_0":
                for group in range(len(self.schedule.groups)):
                    inputs[f"attention_mask_{group}"] = GraphInput(
                        mask.example.clone(), {0: "batch", 1: f"present_{group}"}
                    )
            elif name.startswith("past_"):
                inputs[name] = replace(spec, axes={0: "batch", 2: f"past_{group_of[int(name.rsplit('_', 1)[1])]}"})
            else:
                inputs[name] = spec
        graph.inputs = inputs
        for group in range(len(self.schedule.groups)):
            graph.minimum |= {f"past_{group}": 2, f"present_{group}": 3}
