"""From a captured graph to an ONNX model in memory."""

import logging
import warnings

import onnx_ir as ir
import torch

from vitcop.export.capture.token_graph import TokenGraph
from vitcop.export.lower.ops import attach_functions, translation_table

OPSET = 23
"""The opset in which torch.onnx emits Attention, RMSNormalization and RotaryEmbedding as single nodes."""


def lower(graph: TokenGraph) -> ir.Model:
    """Lower the last trace of `graph`. Initializers are left as torch.onnx made them (values of fake tensors are never read)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        onnx_program = torch.onnx.export(
            graph.program,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=OPSET,
            custom_translation_table=translation_table(),
            optimize=False,
            verify=False,
            verbose=False,
        )
    model = onnx_program.model
    attach_functions(model)
    return model
