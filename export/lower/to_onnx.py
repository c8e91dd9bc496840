"""From a captured graph to an ONNX model in memory."""

import logging
import warnings

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from vitcop.export.capture.token_graph import TokenGraph
from vitcop.export.lower.ops import attach_functions, translation_table

OPSET = 23
"""The opset in which torch.onnx emits Attention, RMSNormalization and RotaryEmbedding as single nodes."""


def lower(graph: TokenGraph) -> ir.Model:
    """Lower the last trace of `graph`. Initializers stay as torch.onnx made them; fake ones have no value."""
    # torch.onnx decomposes every program before it translates it, which traces the whole graph again: two thirds of
    # the export's time. A captured graph already consists of operators that have a translation; only where one has
    # none is it worth it.
    try:
        model = _translate(graph, _Decomposed(graph.program))
    except torch.onnx.errors.OnnxExporterError:
        model = _translate(graph, graph.program)
    attach_functions(model)
    return model


class _Decomposed(ExportedProgram):
    """A program that torch.onnx may take as it is."""

    def __init__(self, program: ExportedProgram) -> None:
        self.__dict__.update(program.__dict__)

    def run_decompositions(self, *_: object, **__: object) -> ExportedProgram:
        return self


def _translate(graph: TokenGraph, program: ExportedProgram) -> ir.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return torch.onnx.export(
            program,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=OPSET,
            custom_translation_table=translation_table(),
            optimize=False,
            verify=False,
            verbose=False,
        ).model
