"""VisionStagePass: stage I. Keep the best visual tokens before the projector reads them."""

import math
import operator
from collections.abc import Mapping

import torch
from torch import fx

from vitcop.calibrate.models.families.layout import GRID, GROUP, PATCHES
from vitcop.calibrate.schedule.schedule import Clusters, Schedule, VisionStage
from vitcop.export.bundle.contract import needs_labels, needs_saliency
from vitcop.export.capture.rows import GATHER_ROWS
from vitcop.export.capture.token_graph import GraphInput, TokenGraph
from vitcop.export.rewrite.boundary import Boundary, Rebuild, symbol
from vitcop.export.rewrite.passes import Pass
from vitcop.plugins import ops as _ops  # noqa: F401  (registers the vitcop:: operators)

aten, vitcop = torch.ops.aten, torch.ops.vitcop

WATCHED = ("patch_queries", "patch_keys", "class_query", "class_keys")
"""Outputs of the captured vision graph that scores are made of; none is left after the pass."""


class VisionStagePass(Pass):
    """Select K of the V visual tokens by the score of the vision stage.

    A token is made of encoder rows by index tables [B,V,…]; the pass gathers the entries of the kept tokens from these
    tables, so that everything after the encoder, projector included, works on K tokens. New inputs are what the score
    needs (`score_inputs`); new outputs `kept_patches [B,K]`, and where the schedule needs them `vision_saliency [B,K]`
    and `cluster_labels [B,K]`. Of the encoder only one row of attention scores is added, in one layer.
    """

    def __init__(self, schedule: Schedule, score_inputs: Mapping[str, GraphInput], scale: float) -> None:
        """Args:
        score_inputs: examples of the inputs that score and clusters of this schedule read, as the graph contract names
            them.
        scale: of the attention logits of the watched layer.
        """
        self.schedule, self.score_inputs, self.scale = schedule, score_inputs, scale

    def call(self, graph: TokenGraph) -> None:
        stage = self.schedule.vision
        if stage is None:
            return
        fxg = graph.module.graph
        output = next(node for node in fxg.nodes if node.op == "output")
        results = dict(zip(graph.outputs, output.args[0], strict=True))
        watched = {name: results.pop(name) for name in WATCHED if name in results}
        results |= self._insert(graph, stage, watched)
        graph.minimum["visual"] = least_count(stage)
        output.args = (tuple(results.values()),)
        graph.outputs = list(results)
        fxg.eliminate_dead_code()

    def _insert(self, graph: TokenGraph, stage: VisionStage, watched: dict[str, fx.Node]) -> dict[str, fx.Node]:
        fxg = graph.module.graph
        tables = [
            graph.placeholder(name)
            for name, spec in graph.inputs.items()
            if spec.axes.get(0) == "batch" and spec.axes.get(1) == "visual"
        ]
        readers = {user for table in tables for user in table.users if user.target is not aten.sym_size.int}
        first = next((node for node in fxg.nodes if node in readers), None)
        visual = symbol(tables[0], 1) if tables else None
        if first is None or visual is None:
            raise self.refuse("the vision graph", "index tables [B,V,…] that features are made by", "none")
        boundary = Boundary.at(fxg, first)
        self._add_inputs(graph)
        with fxg.inserting_before(first):
            results = self._select(graph, stage, watched, tables[0])
            kept = results["kept_patches"]
            replacements = {table: fxg.call_function(GATHER_ROWS, (table, kept)) for table in tables}
            rebuild = Rebuild(fxg, replacements, {visual: fxg.call_function(aten.sym_size.int, (kept, 1))})
            rebuilt = {node: rebuild.clone(node) for node in boundary.crossing if rebuild.applies_to(node)}
        for old, new in rebuilt.items():
            boundary.replace(old, new)
        return results

    def _add_inputs(self, graph: TokenGraph) -> None:
        after = graph.placeholder(list(graph.inputs)[-1])
        for name in self.score_inputs:
            with graph.module.graph.inserting_after(after):
                after = graph.module.graph.placeholder(name)
            graph.inputs[name] = self.score_inputs[name]

    def _select(
        self, graph: TokenGraph, stage: VisionStage, watched: dict[str, fx.Node], table: fx.Node
    ) -> dict[str, fx.Node]:
        fxg = graph.module.graph
        flat = table if table.meta["val"].dim() == 2 else fxg.call_function(aten.select.int, (table, 2, 0))
        # Every token of every row by its number, whatever the table says of it.
        tokens = _numbers(fxg, flat)
        if stage.score == "uniform":
            scores = fxg.call_function(vitcop.uniform_scores.default, (tokens, *stage.keep))
        elif stage.score == "random":
            scores = fxg.call_function(vitcop.random_scores.default, (tokens, stage.seed))
        else:
            patches = Patches(fxg, graph.placeholder(PATCHES), self.score_inputs[PATCHES].example.shape[2])
            scores = SCORES[stage.score](patches, watched, self.scale)
        largest = int(stage.order == "largest")
        select = fxg.call_function(vitcop.score_select.default, (scores, tokens, tokens, *stage.keep, largest))
        kept = fxg.call_function(operator.getitem, (select, 2))
        results = {"kept_patches": kept}
        if needs_saliency(self.schedule):
            results["vision_saliency"] = fxg.call_function(GATHER_ROWS, (scores, kept))
        if needs_labels(self.schedule):
            assert stage.clusters is not None, "a merge needs clusters"
            results["cluster_labels"] = self._clusters(graph, stage.clusters, watched["patch_keys"], kept)
        return results

    def _clusters(self, graph: TokenGraph, clusters: Clusters, keys: fx.Node, kept: fx.Node) -> fx.Node:
        """Labels of the kept tokens from their keys, all heads side by side, and their places in their tiles."""
        fxg = graph.module.graph
        patches, grid, group = (
            fxg.call_function(GATHER_ROWS, (graph.placeholder(name), kept)) for name in (PATCHES, GRID, GROUP)
        )
        clustered = Patches(fxg, patches, self.score_inputs[PATCHES].example.shape[2])
        return fxg.call_function(
            vitcop.density_peak_clusters.default,
            (
                clustered.mean(clustered.take(keys)),
                grid,
                group,
                *clusters.centers,
                clusters.cutoff_distance or 0.0,
                clusters.cutoff_quantile or 0.0,
                clusters.spatial_radius,
            ),
        )


def least_count(stage: VisionStage) -> int:
    """Least V of which two tokens stay by the fraction alone; torch.export treats sizes 0 and 1 as special."""
    num, den = stage.keep
    return -(-2 * den // num)


class Patches:
    """The patches behind each token, and values per patch brought to them.

    Args:
        graph: nodes are inserted at its current insertion point.
        index: int64 [B,V,M].
        per_token: M.
    """

    def __init__(self, graph: fx.Graph, index: fx.Node, per_token: int) -> None:
        self.graph, self.index, self.per_token = graph, index, per_token
        self.batch, self.tokens = (self.call(aten.sym_size.int, index, axis) for axis in (0, 1))

    def call(self, target: object, *arguments: object) -> fx.Node:
        """One node."""
        return self.graph.call_function(target, arguments)

    def take(self, values: fx.Node) -> fx.Node:
        """[P,…] -> fp32 [B,V,M,X], all of a patch's values side by side."""
        flat = self.call(aten.reshape.default, values, [-1, math.prod(values.meta["val"].shape[1:])])
        return _fp32(self.graph, self.call(aten.embedding.default, flat, self.index), values)

    def mean(self, taken: fx.Node) -> fx.Node:
        """[B,V,M,X] -> [B,V,X]."""
        return self.call(aten.squeeze.dim, taken, 2) if self.per_token == 1 else self.call(aten.mean.dim, taken, [2])

    def heads(self, vectors: fx.Node) -> fx.Node:
        """[P,Nh,D] -> fp32 [B,Nh,V·M,D]."""
        # Every size is spelled out: one that torch.export would have to divide for becomes a guard it may refuse.
        total = self.call(operator.mul, self.tokens, self.per_token)
        sizes = [self.batch, total, *vectors.meta["val"].shape[1:]]
        return self.call(aten.transpose.int, self.call(aten.reshape.default, self.take(vectors), sizes), 1, 2)

    def per_patch(self, scores: fx.Node) -> fx.Node:
        """[B,V·M] -> [B,V], the mean of each token's patches."""
        sizes = [self.batch, self.tokens, self.per_token, 1]
        return self.call(aten.squeeze.dim, self.mean(self.call(aten.reshape.default, scores, sizes)), 2)

    def every(self, keys: fx.Node) -> fx.Node:
        """int64 [B,V·M]: 0, 1, 2, … in each row, for keys [B,Nh,V·M,D]."""
        return _numbers(self.graph, self.call(aten.select.int, self.call(aten.select.int, keys, 3, 0), 1, 0))


def _class_attention(patches: Patches, watched: dict[str, fx.Node], scale: float) -> fx.Node:
    saliency = patches.call(vitcop.vision_saliency.default, watched["class_query"], watched["class_keys"], scale)
    column = patches.call(aten.reshape.default, saliency, [-1, 1])
    return patches.call(aten.squeeze.dim, patches.mean(patches.call(aten.embedding.default, column, patches.index)), 2)


def _mean_query(patches: Patches, watched: dict[str, fx.Node], scale: float) -> fx.Node:
    query = patches.call(aten.mean.dim, patches.heads(watched["patch_queries"]), [2])
    keys = patches.heads(watched["patch_keys"])
    every = patches.every(keys)
    scores = patches.call(vitcop.text_query_scores.default, query, keys, every, _ones(patches.graph, every), scale)
    return patches.per_patch(scores)


def _key_norm(patches: Patches, watched: dict[str, fx.Node], scale: float) -> fx.Node:
    keys = patches.heads(watched["patch_keys"])
    return patches.per_patch(patches.call(vitcop.knorm_scores.default, keys, patches.every(keys), 1))


def _key_diversity(patches: Patches, watched: dict[str, fx.Node], scale: float) -> fx.Node:
    keys = patches.mean(patches.take(watched["patch_keys"]))
    length = patches.call(
        aten.clamp_min.default, patches.call(aten.linalg_vector_norm.default, keys, 2, [2], True), 1e-12
    )
    unit = patches.call(aten.div.Tensor, keys, length)
    cosine = patches.call(aten.mul.Tensor, unit, patches.call(aten.mean.dim, unit, [1], True))
    return patches.call(aten.rsub.Scalar, patches.call(aten.sum.dim_IntList, cosine, [2]), 1)


SCORES = {
    "class_attention": _class_attention,
    "mean_query": _mean_query,
    "key_norm": _key_norm,
    "key_diversity": _key_diversity,
}


def _numbers(fxg: fx.Graph, like: fx.Node) -> fx.Node:
    """int64 [B,N]: 0, 1, 2, … in each row."""
    batch, count = (fxg.call_function(aten.sym_size.int, (like, axis)) for axis in (0, 1))
    row = fxg.call_function(aten.arange.default, (count,), {"dtype": torch.int64})
    return fxg.call_function(aten.expand.default, (fxg.call_function(aten.unsqueeze.default, (row, 0)), [batch, -1]))


def _ones(fxg: fx.Graph, like: fx.Node) -> fx.Node:
    return fxg.call_function(aten.ones_like.default, (like,))


def _fp32(fxg: fx.Graph, node: fx.Node, like: fx.Node) -> fx.Node:
    if like.meta["val"].dtype == torch.float32:
        return node
    return fxg.call_function(torch.ops.prims.convert_element_type.default, (node, torch.float32))
