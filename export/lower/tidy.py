"""Tidying a lowered model: fold what is constant, fuse what ONNX has an op for, and strip what differs between runs."""

import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
from onnxscript.rewriter import onnx_fusions

from vitcop.export.lower.integers import clamp_integers
from vitcop.export.lower.rotary import fuse_half_rotary


def tidy(model: ir.Model) -> None:
    """Simplify `model` in place. Weights stay where they are: nothing that reads an external initializer is folded."""
    onnxscript.optimizer.optimize_ir(model, should_fold=_should_fold, inline=False, onnx_shape_inference=False)
    onnx_fusions.fuse(model)
    fuse_half_rotary(model)
    clamp_integers(model)
    passes = ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    )
    passes(model)
    model.producer_name, model.producer_version = "vitcop", None
    # Stack traces and module paths of the trace differ from run to run.
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.meta.clear()


def _should_fold(node: ir.Node) -> bool | None:
    reads_weights = any(value is not None and isinstance(value.const_value, ir.ExternalTensor) for value in node.inputs)
    return False if reads_weights else None
