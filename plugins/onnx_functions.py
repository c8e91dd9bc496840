"""The ONNX functions of all ops: what the exporter attaches to a model, so that ONNX Runtime runs `vitcop` nodes."""

import onnx

from vitcop.plugins.clusters import onnx_function as clusters
from vitcop.plugins.knorm import onnx_function as knorm
from vitcop.plugins.merge import onnx_function as merge
from vitcop.plugins.saliency import onnx_function as saliency
from vitcop.plugins.scores import onnx_function as scores


def functions(opset_version: int) -> dict[str, onnx.FunctionProto]:
    """Model-local functions by ONNX op type, for a model whose default opset is `opset_version` (18 or newer).

    The bodies import the default opset only. A model uses them with an opset import of domain `vitcop`, version 1.
    """
    found = [
        proto for folder in (saliency, clusters, knorm, scores, merge) for proto in folder.functions(opset_version)
    ]
    return {proto.name: proto for proto in found}
