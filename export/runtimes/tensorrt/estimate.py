"""Before anything is built: about how much host and device memory building and running will take.

Weights and caches are exact (caches count twice: what the prefill gives, and what decoding goes on with). Activations
are an estimate, written down here so that it can be judged: a decoder layer of a prefill holds at most twelve tensors
of the size of its hidden states, and the masks of its attention one byte for each pair of tokens. In fp32, where there
may be no fused attention, the scores of a layer are there as a whole: four bytes for each head and pair of tokens, as
many heads as head sizes go into the hidden size. Building holds the weights of one graph three times on the host (as
the parser read them, in TensorRT's builder, in the plan; what the builder itself holds has not been measured) and once
on the device beside activations and scratch memory. Running holds the weights of all three engines: the language model
twice, since prefill and decode are engines of their own.

Not counted: activations of the vision tower, whose sizes a bundle does not tell; attention scores of half types, should
TensorRT take an attention apart there too; the second set of caches of plain decoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.export.bundle import Architecture
from vitcop.export.bundle.contract import group_of_layer
from vitcop.plugins.errors import MissingError

if TYPE_CHECKING:
    from vitcop.calibrate.schedule.schedule import Schedule

GIB = 1024**3
_BASE = GIB
"""TensorRT's libraries, CUDA's own memory and what Python holds, on either side."""
_TENSORS = 12
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes.

    Args:
        weights: of each graph, in the type it is built in.
        kv_cache: of all layers at full batch and capacity.
        activations: of the largest prefill.
        build_host, build_device: most while building.
        run_device: while running, all engines loaded.
    """

    weights: Mapping[str, int]
    kv_cache: int
    activations: int
    build_host: int
    build_device: int
    run_device: int

    def lines(self) -> list[str]:
        """For people."""
        each = ", ".join(f"{part} {_gib(size)}" for part, size in self.weights.items())
        return [
            f"weights: {each} (prefill and decode each hold the language model)",
            f"KV caches {_gib(self.kv_cache)}, activations about {_gib(self.activations)}",
            f"building: about {_gib(self.build_host)} of host memory, {_gib(self.build_device)} of device memory",
            f"running: about {_gib(self.run_device)} of device memory",
        ]

    def check(self, *, host: int | None, device: int | None, streaming: bool, where: str) -> None:
        """Raises MissingError with advice where a machine has less free memory; None means unknown, and passes."""
        if host is not None and self.build_host > host:
            raise MissingError(
                f"{where}: building needs about {_gib(self.build_host)} of host memory, {_gib(host)} are free; "
                "build on a machine with more, or with --option precision=fp16 (bf16), which halves fp32 weights"
            )
        needed = max(self.build_device, 0 if streaming else self.run_device)
        if device is not None and needed > device:
            raise MissingError(
                f"{where}: building and running need about {_gib(needed)} of device memory, {_gib(device)} are free; "
                f"{self._advice(device)}"
            )

    def _advice(self, device: int) -> str:
        if self.kv_cache + self.activations > sum(self.weights.values()):
            return "lower max_batch, max_new_tokens, max_text or max_images"
        if sum(self.weights.values()) > device // 2:
            return "use precision=fp16 or bf16 (from fp32), weight_streaming=true, or a GPU with more memory"
        return "free some of it, set workspace, or lower max_batch"


def estimate(
    weights: Mapping[str, int],
    facts: Architecture,
    schedule: "Schedule",
    *,
    dtype: str,
    batch: int,
    tokens: int,
    capacities: tuple[int, ...],
    workspace: int | None = None,
) -> Estimate:
    """Estimate from sizes.

    Args:
        weights: bytes of each graph's weights in the type it is built in.
        tokens: longest prompt after the vision stage.
        capacities: KV length of each layer group at its fullest.
        workspace: limit of scratch memory in bytes; None counts as the activations again.
    """
    width = _BYTES[dtype]
    per_token = 2 * batch * facts.num_kv_heads * facts.head_dim * width
    kv_cache = sum(per_token * capacities[group] for group in group_of_layer(schedule)) * 2
    scores = facts.hidden_size // facts.head_dim * tokens * 4 if dtype == "float32" else 0
    activations = batch * tokens * (_TENSORS * facts.hidden_size * width + tokens + scores)
    scratch = activations if workspace is None else min(workspace, activations)
    largest = max(weights.values())
    return Estimate(
        weights=dict(weights),
        kv_cache=kv_cache,
        activations=activations,
        build_host=3 * largest + _BASE,
        build_device=largest + kv_cache + activations + scratch + _BASE,
        run_device=sum(weights.values()) + kv_cache + activations + scratch + _BASE,
    )


def weight_bytes(model: Any, dtype: str) -> int:
    """Bytes of a graph's weights where its floats are of type `dtype`; the graph is loaded without its weights."""
    from math import prod

    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    total = 0
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and tensor.data_type not in floats:
            total += int({entry.key: entry.value for entry in tensor.external_data}["length"])
        else:
            total += prod(tensor.dims) * (_BYTES[dtype] if tensor.data_type in floats else 8)
    return total


def free_host_memory() -> int | None:
    """Bytes of memory that a new program could have, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 1024**2:.0f} MiB"
