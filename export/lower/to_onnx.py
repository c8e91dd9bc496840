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


def lower(graph: TokenGraph) -> tuple[ir.Model, bool]:
    """Lower the last trace of `graph`: the model, and whether torch.onnx had to decompose it first.

    torch.onnx decomposes every program before it translates it, which traces the whole graph again: two thirds of the
    export's time. A captured graph consists of operators that have a translation, so it is handed over as it is; where
    one has none after all, the long way is taken and the caller is told.

    Initializers stay as torch.onnx made them; fake ones have no value. Raises torch.onnx's own errors.
    """
    decomposed = False
    try:
        model = _translate(graph, _Decomposed(graph.program))
    except torch.onnx.errors.OnnxExporterError as error:
        if "No ONNX function found" not in str(error):
            raise
        decomposed = True
        model = _translate(graph, graph.program)
    attach_functions(model)
    return model, decomposed


class _Decomposed(ExportedProgram):
    """A program that torch.onnx may take as it is."""

    def __init__(self, program: ExportedProgram) -> None:
        self.__dict__.update(program.__dict__)

    def run_decompositions(self, *_: object, **__: object) -> ExportedProgram:
        return self


def _translate(graph: TokenGraph, program: ExportedProgram) -> ir.Model:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    finally:
        log.setLevel(level)
