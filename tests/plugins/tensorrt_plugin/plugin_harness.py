"""A plugin library in the hands of the C++ harness, which treats it as TensorRT would; see harness.cpp.

plugins = PluginHarness(include, library)
node = plugins.create("KNormSelect", [("keep_num", "int32", 1), ...])
node.output_shapes([described(keys), described(index)])
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import emulated
import pytest
import torch

from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.spec import OpSpec
from vitcop.plugins.tensorrt import build

HERE = Path(__file__).parent
VARIABLE = "VITCOP_TENSORRT_INCLUDE_DIR"
HEADERS = [Path(entry) for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
"""Folders of TensorRT's headers to test with, of one version each."""

WITHOUT_HEADERS = f"{VARIABLE} names no folder of TensorRT's headers (several may be given, separated by colons)"

INDEX_TYPES = ("int32", "int64")
FLOAT_TYPES = ("float32", "float16", "bfloat16")


def header_params() -> list:
    """For pytest: each folder of headers by its version, or one that is skipped with the reason."""
    if not HEADERS:
        return [pytest.param(None, marks=pytest.mark.skip(reason=WITHOUT_HEADERS), id="no-headers")]
    return [pytest.param(path, id=".".join(map(str, build.header_version(path)))) for path in HEADERS]


@functools.cache
def emulated_plugin(include: Path) -> Path:
    """The plugin library as g++ builds it with the headers of one version; its kernels run on the CPU."""
    return emulated.library(build.SOURCES, build.INCLUDES, [include])


@functools.cache
def harness_library(include: Path) -> Path:
    return emulated.library([HERE / "harness.cpp"], [], [include])


class FieldStruct(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_char_p),
        ("length", ctypes.c_int32),
    ]


class TensorStruct(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("format", ctypes.c_char_p),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * 8),
        ("most", ctypes.c_int64 * 8),
    ]


@dataclass(frozen=True, kw_only=True)
class Described:
    """What TensorRT tells a plugin about a tensor. `most`: the largest shape of the optimization profile."""

    dtype: str
    shape: tuple[int, ...]
    linear: bool = True
    most: tuple[int, ...] | None = field(default=None)

    def struct(self) -> TensorStruct:
        rank = len(self.shape)
        dims, most = (ctypes.c_int64 * 8)(*self.shape), (ctypes.c_int64 * 8)(*(self.most or self.shape))
        return TensorStruct(self.dtype.encode(), b"linear" if self.linear else b"blocks of 32", rank, dims, most)


def described(tensor: torch.Tensor) -> Described:
    return Described(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape))


CTYPES = {"int32": ctypes.c_int32, "int64": ctypes.c_int64, "float32": ctypes.c_float, "float64": ctypes.c_double}

Attribute = tuple[str, str, int | float]
"""(name, type, value)."""


def attributes_of(spec: OpSpec, values: Sequence[int | float]) -> list[Attribute]:
    """As TensorRT's ONNX parser hands them on: 32 bits wide, but for what does not fit."""

    def wire_type(kind: type, value: int | float) -> str:
        return "float32" if kind is float else "int32" if abs(value) < 2**31 else "int64"

    return [(name, wire_type(kind, value), value) for (name, kind), value in zip(spec.attributes, values, strict=True)]


class PluginHarness:
    """The creators of one library. Only one can be open at a time: what an earlier one made must not be used on."""

    def __init__(self, include: Path, library: Path) -> None:
        self.harness = ctypes.CDLL(str(harness_library(include)))
        for name in ("open", "messages", "creator", "identity", "output_types", "output_shapes"):
            getattr(self.harness, f"harness_{name}").restype = ctypes.c_char_p
        for name in ("create", "create_of_nothing", "written_and_read", "clone", "attached"):
            getattr(self.harness, f"harness_{name}").restype = ctypes.c_void_p
        self.harness.harness_supports.restype = ctypes.c_bool
        self.harness.harness_workspace.restype = ctypes.c_int64
        wrong = self.harness.harness_open(str(library).encode())
        if wrong:
            raise RuntimeError(f"{library}: {wrong.decode()}")
        self.messages()

    def messages(self) -> str:
        """What the plugins told TensorRT's logger since the last time."""
        return self.harness.harness_messages().decode()

    def creators(self) -> list[str]:
        return [self.harness.harness_creator(i).decode() for i in range(self.harness.harness_num_creators())]

    def create(self, name: str, attributes: Sequence[Attribute] | None, *, length: int = 1) -> "Node | None":
        """The node, or None where the creator refuses; `attributes` None: not even a list."""
        if attributes is None:
            address = self.harness.harness_create_of_nothing(name.encode())
        else:
            values = [CTYPES.get(kind, ctypes.c_int64)(value) for _, kind, value in attributes]
            fields = (FieldStruct * len(values))(
                *(
                    FieldStruct(attribute.encode(), ctypes.addressof(value), kind.encode(), length)
                    for (attribute, kind, _), value in zip(attributes, values, strict=True)
                )
            )
            address = self.harness.harness_create(name.encode(), fields, len(values))
        return Node(self, ALL_OPS_BY_ONNX_NAME[name], address) if address else None

    def node(self, name: str, values: Sequence[int | float]) -> "Node":
        """A node of op `name` (torch's) with attributes that are fine."""
        spec = ALL_OPS[name]
        made = self.create(spec.onnx_name, attributes_of(spec, values))
        assert made is not None, self.messages()
        return made


ALL_OPS_BY_ONNX_NAME = {spec.onnx_name: spec for spec in ALL_OPS.values()}


class Node:
    """A plugin object."""

    def __init__(self, plugins: PluginHarness, spec: OpSpec, address: int) -> None:
        self.harness, self.spec, self.address = plugins.harness, spec, ctypes.c_void_p(address)
        self.plugins = plugins

    def __del__(self) -> None:
        self.harness.harness_destroy(self.address)

    def _another(self, how: str) -> "Node":
        return Node(self.plugins, self.spec, getattr(self.harness, f"harness_{how}")(self.address))

    clone = functools.partialmethod(_another, "clone")
    attached = functools.partialmethod(_another, "attached")
    written_and_read = functools.partialmethod(_another, "written_and_read")

    def identity(self) -> str:
        return self.harness.harness_identity(self.address).decode()

    def _tensors(self, inputs: Sequence[Described], outputs: Sequence[Described] = ()) -> tuple:
        unknown = [Described(dtype="float32", shape=())] * (len(self.spec.outputs) - len(outputs))
        structs = [tensor.struct() for tensor in (*inputs, *outputs, *unknown)]
        return (TensorStruct * len(structs))(*structs), len(inputs), len(self.spec.outputs)

    def output_types(self, inputs: Sequence[Described]) -> list[str]:
        """Empty where the plugin refuses."""
        told = self.harness.harness_output_types(self.address, *self._tensors(inputs)).decode()
        return told.split(",") if told else []

    def output_shapes(self, inputs: Sequence[Described]) -> list[tuple[int, ...]]:
        """Empty where the plugin refuses."""
        told = self.harness.harness_output_shapes(self.address, *self._tensors(inputs)).decode()
        assert told != "data", "the shape of an output hangs on values"
        return [tuple(map(int, shape.split(","))) for shape in told.split(";")] if told else []

    def supports(self, place: int, inputs: Sequence[Described], outputs: Sequence[Described]) -> bool:
        return self.harness.harness_supports(self.address, place, *self._tensors(inputs, outputs))

    def configures(self, inputs: Sequence[Described], outputs: Sequence[Described]) -> bool:
        return self.harness.harness_configure(self.address, *self._tensors(inputs, outputs)) == 0

    def workspace(self, inputs: Sequence[Described], outputs: Sequence[Described]) -> int:
        return self.harness.harness_workspace(self.address, *self._tensors(inputs, outputs))

    def output_descriptions(self, inputs: Sequence[Described]) -> list[Described]:
        types, shapes = self.output_types(inputs), self.output_shapes(inputs)
        return [Described(dtype=kind, shape=shape) for kind, shape in zip(types, shapes, strict=True)]

    def enqueue(
        self,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        workspace: torch.Tensor,
        stream: int | None = None,
    ) -> int:
        """Runs the node: 0, or what the plugin returned."""
        tensors = self._tensors([described(t) for t in inputs], [described(t) for t in outputs])

        def addresses(list_of_tensors: Sequence[torch.Tensor]) -> ctypes.Array:
            return (ctypes.c_void_p * len(list_of_tensors))(*(t.data_ptr() or None for t in list_of_tensors))

        return self.harness.harness_enqueue(
            self.address,
            *tensors,
            addresses(inputs),
            addresses(outputs),
            ctypes.c_void_p(workspace.data_ptr()),
            ctypes.c_void_p(stream),
        )
