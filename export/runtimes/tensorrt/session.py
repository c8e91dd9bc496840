"""One TensorRT engine with its execution context and the device memory that it reads and writes.

Torch CUDA tensors are the memory; TensorRT is only told their addresses. Everything runs on the stream that is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vitcop.export.runtimes.tensorrt.streams import Stream
from vitcop.plugins.errors import InputError, MissingError

if TYPE_CHECKING:
    import tensorrt as trt

ALIGNMENT = 256
"""Bytes; TensorRT's demand on every address. Torch's own allocations have it, views into them may not."""


@dataclass(frozen=True, kw_only=True)
class TensorSlot:
    """An input or output: its torch type, and for inputs the least and greatest shape of the profile."""

    dtype: torch.dtype
    least: tuple[int, ...] = ()
    greatest: tuple[int, ...] = ()


class Buffers:
    """Device memory by name that grows when it must and is used again otherwise."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flat: dict[str, torch.Tensor] = {}

    def view(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, most: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """The memory of that name as a tensor; what an earlier view of it held is lost when it grows.

        Args:
            most: greatest shape that will be asked for, where it is known: memory for it is taken at once.
        """
        count = prod(shape)
        size = max(count * dtype.itemsize, prod(most) * dtype.itemsize, ALIGNMENT)
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            self._flat.pop(name, None)
            flat = self._flat[name] = torch.empty(size, dtype=torch.uint8, device=self.device)
        return flat[: count * dtype.itemsize].view(dtype).view(shape)


class EngineSession:
    """An engine ready to run.

    Args:
        name: "vision", "prefill" or "decode", for messages.
        plan: the serialized engine.
        runtime: TensorRT's runtime; the plugin library is registered already.
        stream: the one stream that everything runs on.
        buffers: memory for outputs and for inputs that have to be copied.
        streaming: the engine was built with streamed weights.
        streaming_budget: bytes of device memory for streamed weights, 0 for as few as can be, or None for what
            TensorRT's automatic budget says (about the memory that is free). Where no budget is set at all TensorRT
            streams nothing.
        refit: called with the engine before anything runs, to put weights into a stripped one.
    """

    def __init__(
        self,
        name: str,
        plan: Path,
        runtime: "trt.Runtime",
        stream: Stream,
        buffers: Buffers,
        *,
        streaming: bool = False,
        streaming_budget: int | None = None,
        refit: Any = None,
    ) -> None:
        self.name, self.plan, self.stream, self.buffers = name, plan, stream, buffers
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise InputError(f"{plan}: TensorRT cannot read this engine here; see its messages above. Build it again")
        if refit is not None:
            refit(engine)
        if streaming:
            # Before any context is made: afterwards the budget cannot be changed.
            automatic = streaming_budget is None
            engine.weight_streaming_budget_v2 = (
                engine.get_weight_streaming_automatic_budget() if automatic else streaming_budget
            )
        context: trt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise MissingError(f"{plan}: not enough device memory to run this engine")
        self.engine: trt.ICudaEngine = engine
        self.context: trt.IExecutionContext = context
        self.inputs, self.outputs = _slots(engine, plan)
        # What TensorRT reads or calls and does not keep alive: the inputs that are bound, the profiler.
        self._bound: dict[str, torch.Tensor] = {}
        self._profiler: trt.IProfiler | None = None

    def bind(self, feeds: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Set shapes and addresses of everything; returns all outputs as tensors that the next run fills.

        Args:
            feeds: every input. Cast and copied only where type, layout or alignment demand it.
            outputs: memory for outputs that have a place of their own; the others get a buffer.

        Raises InputError where a shape is outside the profile.
        """
        bound = {name: self._fit(name, feeds[name]) for name in self.inputs}
        for name, tensor in bound.items():
            if not self.context.set_input_shape(name, tuple(tensor.shape)):
                raise InputError(f"{self.plan}: TensorRT refuses shape {list(tensor.shape)} for input {name!r}")
            self.context.set_tensor_address(name, self._address(name, tensor))
        unknown = self.context.infer_shapes()
        assert not unknown, f"shapes of {unknown} do not follow from those of the inputs"
        made: dict[str, torch.Tensor] = {}
        for name, slot in self.outputs.items():
            shape = tuple(self.context.get_tensor_shape(name))
            made[name] = (
                outputs[name] if name in outputs else self.buffers.view(f"{self.name}.{name}", shape, slot.dtype)
            )
            assert tuple(made[name].shape) == shape, (
                f"{name}: memory for {tuple(made[name].shape)}, engine gives {shape}"
            )
            self.context.set_tensor_address(name, self._address(name, made[name]))
        # Copies that were made for this run have to live until the stream has come to them.
        self._bound = bound
        return made

    def enqueue(self) -> None:
        """Start the engine on the stream with what is bound; returns at once."""
        if not self.context.execute_async_v3(self.stream.handle):
            raise InputError(f"{self.plan}: TensorRT could not run the engine; see its messages above")

    def run(
        self, feeds: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """`bind`, then `enqueue`."""
        made = self.bind(feeds, outputs or {})
        self.enqueue()
        return made

    def streamed(self) -> tuple[int, int]:
        """Bytes: device memory that streamed weights may take, and all weights that can be streamed. They are streamed
        where the first is less."""
        return self.engine.weight_streaming_budget_v2, self.engine.streamable_weights_size

    def watch(self, profiler: "trt.IProfiler") -> None:
        """Report the time of every layer to a profiler from now on."""
        self._profiler = profiler
        self.context.profiler = profiler

    def _fit(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as the engine can read it. Raises InputError where its shape is outside the profile."""
        slot = self.inputs[name]
        shape = tuple(tensor.shape)
        sound = len(shape) == len(slot.least) and all(
            low <= size <= high for low, size, high in zip(slot.least, shape, slot.greatest, strict=True)
        )
        if not sound:
            raise InputError(
                f"{self.plan}: input {name!r} of shape {list(shape)} is outside what the engine was built for, "
                f"{list(slot.least)} to {list(slot.greatest)}; build it with other limits (max_batch; min_text, "
                "max_text; min_images, max_images; min_visual, max_visual; max_new_tokens)"
            )
        tensor = tensor.to(device=self.buffers.device, dtype=slot.dtype).contiguous()
        if tensor.data_ptr() % ALIGNMENT or not tensor.numel():
            copy = self.buffers.view(f"{self.name}.{name}", shape, slot.dtype)
            tensor = copy.copy_(tensor)
        return tensor

    def _address(self, name: str, tensor: torch.Tensor) -> int:
        """Where a tensor lies. An empty one has no address of its own; TensorRT wants one all the same."""
        return tensor.data_ptr() or self.buffers.view(f"{self.name}.{name}.empty", (ALIGNMENT,), torch.uint8).data_ptr()


def _slots(engine: "trt.ICudaEngine", plan: Path) -> tuple[dict[str, TensorSlot], dict[str, TensorSlot]]:
    """Inputs and outputs of an engine by name."""
    import tensorrt as trt

    types = torch_types()
    inputs, outputs = {}, {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = types[engine.get_tensor_dtype(name)]
        if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
            outputs[name] = TensorSlot(dtype=dtype)
            continue
        if engine.is_shape_inference_io(name):
            raise InputError(f"{plan}: input {name!r} is read for shapes on the host; export the bundle again")
        least, _, greatest = engine.get_tensor_profile_shape(name, 0)
        inputs[name] = TensorSlot(dtype=dtype, least=tuple(least), greatest=tuple(greatest))
    return inputs, outputs


def torch_types() -> "dict[trt.DataType, torch.dtype]":
    """TensorRT's types to torch's."""
    import tensorrt as trt

    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT64: torch.int64,
        trt.DataType.INT32: torch.int32,
        trt.DataType.BOOL: torch.bool,
    }
