"""VisionStagePass: stage I. Keep the best patches before the projector reads them."""

import operator

import torch
from torch import fx

from vitcop.calibrate.schedule import Clusters, Schedule, VisionStage
from vitcop.export.capture.attention import ATTENTION
from vitcop.export.capture.paths import ModulePaths
from vitcop.export.capture.token_graph import TokenGraph
from vitcop.export.rewrite.boundary import Boundary, is_inside
from vitcop.export.rewrite.passes import Pass
from vitcop.export.rewrite.rows import GATHER_ROWS
from vitcop.plugins import ops as _ops  # noqa: F401  (registers the vitcop:: operators)

aten, vitcop = torch.ops.aten, torch.ops.vitcop
_GRID, _PATCHES, _GROUPS = "vitcop_grid", "vitcop_patches", "vitcop_groups"


class VisionStagePass(Pass):
    """Select K of the N patches by the score of the vision stage; the projector then sees K rows.

    New outputs: `kept_patches [B,K]`, and where the schedule needs them `vision_saliency [B,K]` and `cluster_labels
    [B,K]`. Of the whole tower only one row of attention scores is added, in the layer whose output the projector
    reads.
    """

    def __init__(self, schedule: Schedule, paths: ModulePaths, grid: tuple[int, int]) -> None:
        self.schedule, self.paths, self.grid = schedule, paths, grid

    def call(self, graph: TokenGraph) -> None:
        stage = self.schedule.vision
        if stage is None:
            return
        fxg, module = graph.module.graph, graph.module
        boundary = Boundary.before(fxg, self.paths.projector)
        features = [node for node in boundary.crossing if node.meta["val"].dim() == 3] if boundary else []
        if boundary is None or len(features) != 1:
            raise self.refuse(self.paths.projector, "one value [B,N,H] to enter the projector", str(len(features)))
        rows, columns = self.grid
        if features[0].meta["val"].shape[1] != rows * columns:
            raise self.refuse(self.paths.projector, f"{rows * columns} patches", str(features[0].meta["val"].shape[1]))
        place = torch.arange(rows * columns)
        grid = torch.stack((place // columns / rows, place % columns / columns), dim=1)
        for name, buffer in ((_GRID, grid), (_PATCHES, place), (_GROUPS, torch.zeros_like(place))):
            module.register_buffer(name, buffer, persistent=False)
        with fxg.inserting_before(boundary.first):
            results = self._select(fxg, stage, features[0])
            kept = fxg.call_function(GATHER_ROWS, (features[0], results["kept_patches"]))
        boundary.replace(features[0], kept)
        output = next(node for node in fxg.nodes if node.op == "output")
        output.args = ((*output.args[0], *results.values()),)
        graph.outputs += list(results)

    def _select(self, fxg: fx.Graph, stage: VisionStage, features: fx.Node) -> dict[str, fx.Node]:
        attention = self._attention(fxg)
        query, key = attention.args[:2]
        batch = fxg.call_function(aten.sym_size.int, (features, 0))
        patches = _rows_of(fxg, _PATCHES, batch)
        largest = 1
        if stage.score == "class_attention":
            class_query = fxg.call_function(aten.select.int, (query, 2, 0))
            scores = fxg.call_function(vitcop.vision_saliency.default, (class_query, key, attention.kwargs["scale"]))
        elif stage.score == "uniform":
            scores = fxg.call_function(vitcop.uniform_scores.default, (patches, *stage.keep))
        else:
            scores = fxg.call_function(vitcop.random_scores.default, (patches, stage.seed))
        select = fxg.call_function(vitcop.score_select.default, (scores, patches, features, *stage.keep, largest))
        kept = fxg.call_function(operator.getitem, (select, 2))
        results = {"kept_patches": kept}
        if any(drop.score == "vision_saliency" for drop in self.schedule.drops):
            results["vision_saliency"] = fxg.call_function(GATHER_ROWS, (scores, kept))
        if any(drop.op == "merge" for drop in self.schedule.drops):
            results["cluster_labels"] = self._clusters(fxg, stage.clusters, key, kept, batch)
        return results

    def _clusters(self, fxg: fx.Graph, clusters: Clusters, key: fx.Node, kept: fx.Node, batch: fx.Node) -> fx.Node:
        """Labels of the kept patches from their key projections, all heads side by side."""
        heads, length, head_dim = key.meta["val"].shape[1:]
        flat = fxg.call_function(aten.transpose.int, (key, 1, 2))
        flat = fxg.call_function(aten.reshape.default, (flat, [batch, length, heads * head_dim]))
        flat = fxg.call_function(aten.slice.Tensor, (flat, 1, 1, length))  # without the class token
        arguments = [
            fxg.call_function(GATHER_ROWS, (rows, kept))
            for rows in (flat, _rows_of(fxg, _GRID, batch), _rows_of(fxg, _GROUPS, batch))
        ]
        return fxg.call_function(
            vitcop.density_peak_clusters.default,
            (
                *arguments,
                *clusters.centers,
                clusters.cutoff_distance or 0.0,
                clusters.cutoff_quantile or 0.0,
                clusters.spatial_radius,
            ),
        )

    def _attention(self, fxg: fx.Graph) -> fx.Node:
        path = self.paths.vision_attention
        found = [node for node in fxg.nodes if node.target is ATTENTION and is_inside(node, path)]
        if len(found) != 1:
            raise self.refuse(path, "one Attention node", str(len(found)))
        return found[0]


def _rows_of(fxg: fx.Graph, buffer: str, batch: fx.Node) -> fx.Node:
    """A constant [N,…] as [B,N,…]."""
    constant = fxg.get_attr(buffer)
    rank = getattr(fxg.owning_module, buffer).dim()
    return fxg.call_function(
        aten.expand.default, (fxg.call_function(aten.unsqueeze.default, (constant, 0)), [batch] + [-1] * rank)
    )
