"""The weights of one graph in one safetensors file beside it, so that the graph can be moved without its checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vitcop.plugins.errors import InputError

WEIGHTS_NAME = "vision.safetensors"

_CHUNK = 1 << 24
_ALIGNMENT = 64


def gather_weights(model: Any, shards: Path, out: Path) -> None:
    """Copy what a graph reads of a checkpoint's shards into one file, and make the graph read that.

    Args:
        model: an ONNX model whose initializers lie outside, of fp32, float16 or bfloat16; changed in place. bfloat16
            is widened to fp32, which loses nothing.
        shards: the folder of the shards.
        out: the file to write; the graph will name it by its plain name.

    Raises InputError where a shard is missing or truncated, and for an initializer of another type.
    """
    from onnx import TensorProto

    external = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    names = {TensorProto.FLOAT: "F32", TensorProto.FLOAT16: "F16"}
    widened = {tensor.name: tensor.data_type == TensorProto.BFLOAT16 for tensor in external}
    header, end = {}, 0
    for tensor in external:
        kind = TensorProto.FLOAT if widened[tensor.name] else tensor.data_type
        if kind not in names:
            found = TensorProto.DataType.Name(kind)
            raise InputError(f"{tensor.name}: a weight of type {found} cannot be packaged (FLOAT, FLOAT16, BFLOAT16)")
        size = int(np.prod(tensor.dims, dtype=np.int64)) * (4 if kind == TensorProto.FLOAT else 2)
        header[tensor.name] = {
            "dtype": names[kind],
            "shape": list(tensor.dims),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with out.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in external:
            for piece in _pieces(tensor, shards):
                stream.write(_widen(piece) if widened[tensor.name] else piece)
    for tensor in external:
        begin, stop = header[tensor.name]["data_offsets"]
        del tensor.external_data[:]
        for key, value in (("location", out.name), ("offset", 8 + len(text) + begin), ("length", stop - begin)):
            tensor.external_data.add(key=key, value=str(value))
        if widened[tensor.name]:
            tensor.data_type = TensorProto.FLOAT


def _pieces(tensor: Any, shards: Path) -> Any:
    """The bytes of an external tensor, a few megabytes at a time."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    path = shards / place["location"]
    if not path.is_file():
        raise InputError(f"{path}: this weight file is missing; complete the model folder")
    left = int(place["length"])
    with path.open("rb") as stream:
        stream.seek(int(place["offset"]))
        while left:
            piece = stream.read(min(_CHUNK, left))
            if not piece:
                raise InputError(f"{path}: truncated; download the file again")
            left -= len(piece)
            yield piece


def _widen(piece: bytes) -> bytes:
    """bfloat16 as fp32: the upper half of the bits."""
    return (np.frombuffer(piece, np.uint16).astype(np.uint32) << 16).tobytes()
