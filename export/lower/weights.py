"""Initializers that point into the checkpoint's own safetensors shards, so that exporting copies no weight."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from vitcop.calibrate.models.checkpoint import TensorLocation

_PREFIX = "model."
"""The capture wrappers hold the model under this name."""

_DTYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


def attach_weights(
    model: ir.Model, weights: Mapping[str, TensorLocation], buffers: Mapping[str, Tensor], folder: Path
) -> set[str]:
    """Give every initializer its value: external for weights, inline for buffers and the rewrite's own small constants.

    Args:
        weights: where each weight lies, by its name in the model.
        buffers: values that no checkpoint holds, by their name in the model.
        folder: where the shards are. It is not written into the model: runners are told where to look.

    Returns the names of the shards that the model reads.
    """
    shards: set[str] = set()
    for name, value in list(model.graph.initializers.items()):
        own = name.removeprefix(_PREFIX)
        if own in weights:
            where = weights[own]
            shards.add(where.file)
            value.const_value = ir.ExternalTensor(
                where.file,
                where.offset,
                where.length,
                _DTYPES[where.dtype],
                shape=ir.Shape(where.shape),
                name=own,
                base_dir=folder,
            )
        elif own in buffers:
            value.const_value = ir.tensor(buffers[own].numpy(), name=own)
        else:
            value.const_value = ir.tensor(value.const_value.numpy(), name=own)
        value.name = own
    return shards
