"""MergeFeaturesPass: tokens that the vision stage kept are merged before they leave the vision graph."""

import operator

import torch
from torch import fx

from vitcop.calibrate.schedule.schedule import Order
from vitcop.export.capture.rows import GATHER_ROWS
from vitcop.export.capture.token_graph import TokenGraph
from vitcop.export.rewrite.passes import Pass
from vitcop.plugins import ops as _ops  # noqa: F401  (registers the vitcop:: operators)
from vitcop.plugins.spec import Fraction

aten, vitcop = torch.ops.aten, torch.ops.vitcop


class MergeFeaturesPass(Pass):
    """Merge the K kept tokens by their clusters down to R, after VisionStagePass.

    Every feature plane is combined in the same way, as plain means in fp32. `kept_patches` becomes [B,R]: the token at
    whose place each merged token stands. `vision_saliency` and `cluster_labels` are used up.
    """

    def __init__(self, *, centers: Fraction, keep: Fraction, order: Order, planes: tuple[str, ...]) -> None:
        """Args:
        centers: cluster centres as a fraction of K.
        keep: R as a fraction of K.
        order: whether tokens of large or of small score stay by themselves.
        planes: names of the feature planes.
        """
        self.centers, self.keep, self.order, self.planes = centers, keep, order, planes

    def call(self, graph: TokenGraph) -> None:
        fxg = graph.module.graph
        output = next(node for node in fxg.nodes if node.op == "output")
        results = dict(zip(graph.outputs, output.args[0], strict=True))
        missing = {"vision_saliency", "cluster_labels", "kept_patches", *self.planes} - set(results)
        if missing:
            raise self.refuse("the vision graph", f"the output {min(missing)}", ", ".join(results))
        with fxg.inserting_before(output):
            scores, labels = results.pop("vision_saliency"), results.pop("cluster_labels")
            if self.order == "largest":  # the op keeps what scores least
                scores = fxg.call_function(aten.neg.default, (scores,))
            tokens = _numbers(fxg, labels)
            plan = fxg.call_function(
                vitcop.cluster_merge_plan.default, (scores, labels, tokens, tokens, *self.centers, *self.keep, 1)
            )
            kept, assignment = (fxg.call_function(operator.getitem, (plan, i)) for i in (2, 3))
            results["kept_patches"] = fxg.call_function(GATHER_ROWS, (results["kept_patches"], kept))
            for name in self.planes:
                results[name] = _combine(fxg, results[name], assignment)
        graph.minimum["visual"] = self.least_count(graph.minimum.get("visual", 2))
        output.args = (tuple(results.values()),)
        graph.outputs = list(results)
        fxg.eliminate_dead_code()

    def least_count(self, least: int) -> int:
        """A V of which two tokens stay after the merge too, where `least` leaves two before it."""
        num, den = self.keep
        return -(-least * -(-2 * den // num) // 2)


def _numbers(fxg: fx.Graph, like: fx.Node) -> fx.Node:
    """int64 [B,K]: 0, 1, 2, … in each row."""
    batch, count = (fxg.call_function(aten.sym_size.int, (like, axis)) for axis in (0, 1))
    row = fxg.call_function(aten.arange.default, (count,), {"dtype": torch.int64})
    return fxg.call_function(aten.expand.default, (fxg.call_function(aten.unsqueeze.default, (row, 0)), [batch, -1]))


def _combine(fxg: fx.Graph, rows: fx.Node, assignment: fx.Node) -> fx.Node:
    """rows [B,K,H] -> [B,R,H]: assignment [B,R,K] times rows, in fp32."""
    dtype = rows.meta["val"].dtype
    convert = torch.ops.prims.convert_element_type.default
    exact = rows if dtype == torch.float32 else fxg.call_function(convert, (rows, torch.float32))
    merged = fxg.call_function(aten.matmul.default, (assignment, exact))
    return merged if dtype == torch.float32 else fxg.call_function(convert, (merged, dtype))
