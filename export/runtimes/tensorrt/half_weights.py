"""Weights of a bundle in half precision: read from the checkpoint's shards chunk by chunk, written to one file."""

import os
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
import onnx_ir as ir

from vitcop.plugins.errors import InputError

_NUMPY = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
_CHUNK = 8 * 2**20
"""Numbers converted at a time."""
_ALIGNMENT = 4096
"""Bytes: each weight begins on a page, so that the file can be mapped."""


def to_half(array: np.ndarray, kind: ir.DataType, *, clamp: bool = False) -> np.ndarray:
    """fp32 -> fp16 or bf16, rounded to nearest even.

    Args:
        clamp: finite numbers beyond the type's largest become that; without it they become infinite.
    """
    half = _NUMPY[kind]
    if clamp:
        largest = np.float32(ml_dtypes.finfo(half).max)
        array = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
    with np.errstate(over="ignore"):
        return array.astype(half)


class HalfWeights:
    """The data file of one graph. It gets its name when `commit` is called.

    Args:
        path: of the file.
        folder: where the shards lie.
        kind: FLOAT16 or BFLOAT16; weights of that type are copied, other float types converted.
    """

    def __init__(self, path: Path, folder: Path, kind: ir.DataType) -> None:
        self.path, self.folder, self.kind = path, folder, kind
        self.partial = path.with_name(f".{path.name}.partial-{os.getpid()}")

    def write(self, model: ir.Model) -> None:
        """Write every external initializer of a model, and let the model refer to this file instead.

        Raises InputError for a weight that the type cannot hold.
        """
        written: dict[tuple[object, ...], int] = {}
        with self.partial.open("wb") as file:
            for value in model.graph.initializers.values():
                if isinstance(tensor := value.const_value, ir.ExternalTensor):
                    source = (tensor.location, tensor.offset, tensor.length)
                    if source not in written:  # tied weights are held once
                        file.write(bytes(-file.tell() % _ALIGNMENT))
                        written[source] = file.tell()
                        self._copy(file, tensor)
                    offset, size = written[source], self._size(tensor)
                    value.const_value = ir.ExternalTensor(
                        self.path.name,
                        offset,
                        size,
                        self._kind(tensor),
                        shape=tensor.shape,
                        name=value.name,
                        base_dir=self.path.parent,
                    )

    def commit(self) -> None:
        """Give the file its name."""
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was not committed."""
        self.partial.unlink(missing_ok=True)

    def _kind(self, tensor: ir.ExternalTensor) -> ir.DataType:
        return self.kind if tensor.dtype.is_floating_point() else tensor.dtype

    def _size(self, tensor: ir.ExternalTensor) -> int:
        return tensor.size * np.dtype(self._kind(tensor).numpy()).itemsize

    def _copy(self, file: BinaryIO, tensor: ir.ExternalTensor) -> None:
        source = np.dtype(tensor.dtype.numpy())
        count = tensor.size
        half = _NUMPY[self.kind]
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            # Read, not mapped: pages of a mapping would stay with the process until memory is short.
            where = (tensor.offset or 0) + start * source.itemsize
            chunk = np.fromfile(self.folder / tensor.location, dtype=source, count=size, offset=where)
            if source != half and tensor.dtype.is_floating_point():
                wide = chunk.astype(np.float32)
                chunk = to_half(wide, self.kind)
                if not np.isfinite(chunk.astype(np.float32)[np.isfinite(wide)]).all():
                    raise InputError(
                        f"weight {tensor.name!r} has numbers above what {half.name} holds "
                        f"({float(ml_dtypes.finfo(half).max):g}); build with bfloat16"
                    )
            file.write(chunk.tobytes())
