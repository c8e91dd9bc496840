"""DropTokensPass: insert the drops of a schedule into the prefill graph."""

import operator
from collections.abc import Callable

import torch
from torch import fx

from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.capture.attention import ATTENTION
from vitcop.export.capture.paths import ModulePaths
from vitcop.export.capture.rows import GATHER_ROWS, PUT_ROWS
from vitcop.export.capture.token_graph import GraphInput, TokenGraph
from vitcop.export.rewrite.boundary import Boundary, Rebuild, is_inside, size_symbols, symbol
from vitcop.export.rewrite.passes import Pass
from vitcop.plugins import ops as _ops  # noqa: F401  (registers the vitcop:: operators)

aten, vitcop = torch.ops.aten, torch.ops.vitcop


PLANE = "deepstack_"
"""Prefix of the inputs that later layers add to the visual tokens."""


class DropTokensPass(Pass):
    """Drop visual tokens before the decoder layers that the schedule names.

    Inserted last drop first: what an earlier drop replaces behind itself then includes what the later ones read. New
    inputs (`cluster_labels`, `vision_saliency`) appear where the schedule needs them; new outputs are `kept_visual_g`
    for each drop g and `assignment_g` for one that merges.
    """

    def __init__(self, schedule: Schedule, paths: ModulePaths) -> None:
        self.schedule, self.paths = schedule, paths

    def call(self, graph: TokenGraph) -> None:
        self._add_inputs(graph)
        results: dict[str, fx.Node] = {}
        for index, drop in reversed(list(enumerate(self.schedule.drops))):
            results = self._insert(graph, index, drop) | results
        output = next(node for node in graph.module.graph.nodes if node.op == "output")
        output.args = ((*output.args[0], *results.values()),)
        graph.outputs += list(results)
        graph.module.graph.eliminate_dead_code()

    def _add_inputs(self, graph: TokenGraph) -> None:
        index = graph.inputs["visual_index"]
        extra = {}
        if any(drop.score == "vision_saliency" for drop in self.schedule.drops):
            extra["vision_saliency"] = GraphInput(index.example.to(torch.float32), index.axes)
        if any(drop.op == "merge" for drop in self.schedule.drops):
            extra["cluster_labels"] = GraphInput(torch.zeros_like(index.example), index.axes)
        after = graph.placeholder(list(graph.inputs)[-1])
        for name, spec in extra.items():
            with graph.module.graph.inserting_after(after):
                after = graph.module.graph.placeholder(name)
            graph.inputs[name] = spec

    def _insert(self, graph: TokenGraph, index: int, drop: Drop) -> dict[str, fx.Node]:
        path, fxg = self.paths.layers[drop.layer], graph.module.graph
        boundary = Boundary.before(fxg, path)
        if boundary is None:
            raise self.refuse(path, "a decoder layer of this path", "none in the graph")
        inputs = {
            name: graph.placeholder(name) for name in graph.inputs if name not in ("input_ids", "visual_features")
        }
        ids = {name: node for name, node in inputs.items() if name != "visual_index"}
        sequence, visual = symbol(inputs["attention_mask"], 1), symbol(inputs["visual_index"], 1)
        if sequence is None or visual is None:
            raise self.refuse(path, "dynamic sequence and visual axes", "fixed ones")
        hidden = self._hidden_states(boundary, path, set(inputs.values()), {sequence, visual})
        with fxg.inserting_before(boundary.first):
            dropped = self._drop(fxg, boundary, drop, hidden, inputs)
            # What later drops and layers read of the ids: the rows of the kept tokens.
            replacements = {inputs["visual_index"]: dropped["visual_index"]}
            for name, node in ids.items():
                if name.startswith(PLANE):
                    replacements[node] = _combined(fxg, node, dropped)
                    continue
                carried = name in ("vision_saliency", "cluster_labels")
                rows = dropped["kept_visual"] if carried else dropped["kept_positions"]
                replacements[node] = fxg.call_function(GATHER_ROWS, (node, rows))
            lengths = {
                sequence: fxg.call_function(aten.sym_size.int, (dropped["kept_positions"], 1)),
                visual: fxg.call_function(aten.sym_size.int, (dropped["visual_index"], 1)),
            }
            rebuild = Rebuild(fxg, replacements, lengths)
            rebuilt = {node: rebuild.clone(node) for node in boundary.crossing if rebuild.applies_to(node)}
        for old, new in {**rebuilt, hidden: dropped["hidden"]}.items():
            boundary.replace(old, new)
        results = {f"kept_visual_{index}": dropped["kept_visual"]}
        return results | ({f"assignment_{index}": dropped["assignment"]} if drop.op == "merge" else {})

    def _hidden_states(self, boundary: Boundary, path: str, ids: set[fx.Node], lengths: set[str]) -> fx.Node:
        """The one crossing value that is more than a function of ids and shapes, [B,S,H]."""
        rebuild = Rebuild(boundary.graph, {node: node for node in ids}, dict.fromkeys(lengths, boundary.first))
        other = [node for node in boundary.crossing if not rebuild.applies_to(node)]
        sized = [node for node in other if size_symbols(node) & lengths]
        if len(sized) != 1 or symbol(sized[0], 1) is None:
            names = (
                ", ".join(f"{node.name}{tuple(getattr(node.meta.get('val'), 'shape', ()))}" for node in sized) or "none"
            )
            raise self.refuse(path, "one value [B,S,H] to cross (the hidden states)", names)
        derived = [
            node for node in other if isinstance(node.meta.get("val"), torch.SymInt) and node.op != "placeholder"
        ]
        for node in derived:
            if any(length in str(node.meta["val"]) for length in lengths):
                raise self.refuse(
                    path, "lengths that are the sequence or visual length itself", f"{node.name} = {node.meta['val']}"
                )
        return sized[0]

    def _drop(
        self, fxg: fx.Graph, boundary: Boundary, drop: Drop, hidden: fx.Node, inputs: dict[str, fx.Node]
    ) -> dict[str, fx.Node]:
        """Nodes of one drop: hidden, kept_positions, visual_index, kept_visual (and assignment for a merge)."""
        num, den = drop.keep
        mean_norm, largest = int(drop.head_reduction == "mean_norm"), int(drop.order == "largest")
        visual_index, mask = inputs["visual_index"], inputs["attention_mask"]
        if drop.op == "merge":
            stage = self.schedule.vision
            assert stage is not None and stage.clusters is not None, "a merge needs clusters"
            clusters = stage.clusters.centers
            scores = _SCORES[drop.score](fxg, self._attention(boundary, drop.layer), drop, inputs)
            if drop.order == "largest":  # the op keeps what scores least
                scores = fxg.call_function(aten.neg.default, (scores,))
            plan = fxg.call_function(
                vitcop.cluster_merge_plan.default,
                (scores, inputs["cluster_labels"], visual_index, mask, *clusters, num, den, int(drop.merge == "mean")),
            )
            result = _unpack(fxg, plan, "kept_positions", "visual_index", "kept_visual", "assignment")
            return result | {"hidden": _merge_hidden(fxg, hidden, visual_index, result)}
        if drop.score == "k_norm":
            key = self._attention(boundary, drop.layer).args[1]
            select = fxg.call_function(vitcop.knorm_select.default, (key, visual_index, num, den, largest, mean_norm))
        else:
            scores = _SCORES[drop.score](fxg, self._attention(boundary, drop.layer), drop, inputs)
            select = fxg.call_function(vitcop.score_select.default, (scores, visual_index, mask, num, den, largest))
        result = _unpack(fxg, select, "kept_positions", "visual_index", "kept_visual")
        return result | {"hidden": fxg.call_function(GATHER_ROWS, (hidden, result["kept_positions"]))}

    def _attention(self, boundary: Boundary, layer: int) -> fx.Node:
        """The attention node of the layer before the drop point: its query, its post-rotary key and its scale."""
        path = self.paths.layers[layer - 1]
        found = [node for node in boundary.graph.nodes if node.target is ATTENTION and is_inside(node, path)]
        if len(found) != 1:
            raise self.refuse(path, "one Attention node", str(len(found)))
        return found[0]


def _knorm(fxg: fx.Graph, attention: fx.Node, drop: Drop, inputs: dict[str, fx.Node]) -> fx.Node:
    mean_norm = int(drop.head_reduction == "mean_norm")
    return fxg.call_function(vitcop.knorm_scores.default, (attention.args[1], inputs["visual_index"], mean_norm))


def _text_query(fxg: fx.Graph, attention: fx.Node, drop: Drop, inputs: dict[str, fx.Node]) -> fx.Node:
    query, key = attention.args[:2]
    last = fxg.call_function(aten.select.int, (query, 2, -1))
    arguments = (last, key, inputs["visual_index"], inputs["attention_mask"], attention.kwargs["scale"])
    return fxg.call_function(vitcop.text_query_scores.default, arguments)


def _vision_saliency(fxg: fx.Graph, attention: fx.Node, drop: Drop, inputs: dict[str, fx.Node]) -> fx.Node:
    return inputs["vision_saliency"]


def _uniform(fxg: fx.Graph, attention: fx.Node, drop: Drop, inputs: dict[str, fx.Node]) -> fx.Node:
    return fxg.call_function(vitcop.uniform_scores.default, (inputs["visual_index"], *drop.keep))


def _random(fxg: fx.Graph, attention: fx.Node, drop: Drop, inputs: dict[str, fx.Node]) -> fx.Node:
    positions = inputs["position_ids"]
    if positions.meta["val"].dim() == 3:  # three axes behind the order
        positions = fxg.call_function(aten.select.int, (positions, 2, 0))
    positions = fxg.call_function(GATHER_ROWS, (positions, inputs["visual_index"]))
    return fxg.call_function(vitcop.random_scores.default, (positions, drop.seed))


_SCORES: dict[str, Callable[[fx.Graph, fx.Node, Drop, dict[str, fx.Node]], fx.Node]] = {
    "k_norm": _knorm,
    "text_query": _text_query,
    "vision_saliency": _vision_saliency,
    "uniform": _uniform,
    "random": _random,
}


def _unpack(fxg: fx.Graph, node: fx.Node, *names: str) -> dict[str, fx.Node]:
    return {name: fxg.call_function(operator.getitem, (node, i)) for i, name in enumerate(names)}


def _merge_hidden(fxg: fx.Graph, hidden: fx.Node, visual_index: fx.Node, plan: dict[str, fx.Node]) -> fx.Node:
    """hidden [B,S,H] -> [B,S−V+R,H]: kept rows, visual ones replaced by their combination."""
    rows = fxg.call_function(GATHER_ROWS, (hidden, visual_index))
    merged = _combine(fxg, rows, plan["assignment"], hidden.meta["val"].dtype)
    kept = fxg.call_function(GATHER_ROWS, (hidden, plan["kept_positions"]))
    return fxg.call_function(PUT_ROWS, (kept, plan["visual_index"], merged))


def _combined(fxg: fx.Graph, plane: fx.Node, dropped: dict[str, fx.Node]) -> fx.Node:
    """A feature plane [B,V,H] after a drop; a merge combines it as it combined the states that it will be added to."""
    if "assignment" in dropped:
        return _combine(fxg, plane, dropped["assignment"], plane.meta["val"].dtype)
    return fxg.call_function(GATHER_ROWS, (plane, dropped["kept_visual"]))


def _combine(fxg: fx.Graph, rows: fx.Node, assignment: fx.Node, dtype: torch.dtype) -> fx.Node:
    """rows [B,V,H] -> [B,R,H]: assignment [B,R,V] times rows, in fp32."""
    merged = fxg.call_function(aten.matmul.default, (assignment, _convert(fxg, rows, dtype, torch.float32)))
    return _convert(fxg, merged, torch.float32, dtype)


def _convert(fxg: fx.Graph, node: fx.Node, present: torch.dtype, wanted: torch.dtype) -> fx.Node:
    if present == wanted:
        return node
    return fxg.call_function(torch.ops.prims.convert_element_type.default, (node, wanted))
