"""Engines of ONNX Runtime in the place of TensorRT's, on the CPU, behind what the runner wants of a session.

What it proves: the runner's own work (moving caches, indices, lengths, masks, positions, batches) and the cut decode
graph. What it does not: anything about TensorRT itself. The cache update and the attention that TensorRT adds through
its API stand here as the ONNX operators of the same meaning, TensorScatter and Attention with nonpad_kv_seqlen.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented

from vitcop.export.bundle import Architecture
from vitcop.export.runtimes.tensorrt.decode_graph import Cut, cut_attention
from vitcop.export.runtimes.tensorrt.kv_cache import input_shapes

TYPES = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32}
TYPES["tensor(bool)"] = torch.bool
ROWS, LONGEST = 4, 80
"""Greatest sizes of axes that vary, as the profile of an engine would say them: the batch, and all others."""


@dataclass(frozen=True)
class Slot:
    dtype: torch.dtype
    greatest: tuple[int, ...]


class HostStream:
    """A stream whose work is done at once. What is captured is done when it is replayed, and not before."""

    device = torch.device("cpu")
    handle = 0

    def __init__(self) -> None:
        self.captures = 0

    def active(self) -> Any:
        return nullcontext()

    def mark(self) -> float:
        return perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin

    def wait(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        return work


class HostSession:
    """A graph in ONNX Runtime over fixed memory: reads what is bound when it runs, writes into what is bound."""

    def __init__(self, model: onnx.ModelProto, stream: HostStream, weights: Path) -> None:
        self.stream = stream
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
        except NotImplemented as error:
            pytest.skip(f"onnxruntime {onnxruntime.__version__} lacks an operator of the stand-in: {error}")
        self.inputs = {
            item.name: Slot(TYPES[item.type], tuple(map(_greatest, item.shape))) for item in self._session.get_inputs()
        }
        self._names = [item.name for item in self._session.get_outputs()]
        self._feeds: dict[str, torch.Tensor] = {}
        self._outputs: dict[str, torch.Tensor] = {}

    def bind(self, feeds: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert set(feeds) == set(self.inputs)
        self._feeds = {name: tensor.to(self.inputs[name].dtype) for name, tensor in feeds.items()}
        found = self._run()
        self._outputs = {name: outputs.get(name, torch.empty_like(found[name])) for name in self._names}
        assert all(self._outputs[name].shape == found[name].shape for name in self._names)
        return self._outputs

    def enqueue(self) -> None:
        for name, value in self._run().items():
            self._outputs[name].copy_(value)

    def run(
        self, feeds: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        made = self.bind(feeds, outputs or {})
        self.enqueue()
        return made

    def _run(self) -> dict[str, torch.Tensor]:
        values = self._session.run(None, {name: tensor.numpy() for name, tensor in self._feeds.items()})
        return {name: torch.from_numpy(value.copy()) for name, value in zip(self._names, values, strict=True)}


def _greatest(size: int | str) -> int:
    return size if isinstance(size, int) else ROWS if size == "B" else LONGEST


def joined(
    model: onnx.ModelProto, capacities: Sequence[int], form: str, facts: Architecture
) -> tuple[onnx.ModelProto, tuple[Cut, ...]]:
    """A decode graph cut open and joined again with the ONNX operators that say what `kv_cache.join` says."""
    cuts = cut_attention(model)
    graph = model.graph
    model.opset_import[0].version = 24
    for name, shape in input_shapes(cuts, capacities, form, facts).items():
        kind = TensorProto.FLOAT if name.startswith("past_") else TensorProto.INT32
        if name.startswith("kv_mask"):
            kind = TensorProto.BOOL
        graph.input.append(helper.make_tensor_value_info(name, kind, ["B" if n is None else n for n in shape]))
    added = []
    for group in range(len(capacities)):
        names = [f"write_index_{group}"] + [f"kv_length_{group}"] * (form == "lengths")
        added += [helper.make_node("Cast", [name], [f"{name}_64"], to=TensorProto.INT64) for name in names]
    for cut in cuts:
        for part, new in (("key", cut.new_key), ("value", cut.new_value)):
            inputs = [f"past_{part}_{cut.layer}", new, f"write_index_{cut.group}_64"]
            added.append(helper.make_node("TensorScatter", inputs, [f"present_{part}_{cut.layer}"], axis=-2))
        inputs = [cut.query, f"present_key_{cut.layer}", f"present_value_{cut.layer}"]
        end = ["", "", "", f"kv_length_{cut.group}_64"] if form == "lengths" else [f"kv_mask_{cut.group}"]
        added.append(helper.make_node("Attention", [*inputs, *end], [cut.attended], scale=1.0))
        for part, heads in (("key", facts.num_kv_heads), ("value", facts.num_kv_heads)):
            shape = ["B", heads, capacities[cut.group], facts.head_dim]
            graph.output.append(helper.make_tensor_value_info(f"present_{part}_{cut.layer}", TensorProto.FLOAT, shape))
    _take_away(graph.input, {cut.attended for cut in cuts})
    _take_away(graph.output, {name for cut in cuts for name in (cut.query, cut.new_key, cut.new_value)})
    _sort(graph, [*graph.node, *added])
    return model, cuts


def _take_away(items: Any, names: set[str]) -> None:
    for item in [item for item in items if item.name in names]:
        items.remove(item)


def _sort(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes into an order in which each comes after what it reads."""
    ready = {item.name for item in graph.input} | {item.name for item in graph.initializer} | {""}
    ordered, waiting = [], nodes
    while waiting:
        now = [node for node in waiting if set(node.input) <= ready]
        assert now, "the graph has a circle"
        ready |= {name for node in now for name in node.output}
        ordered += [type(node).FromString(node.SerializeToString()) for node in now]
        waiting = [node for node in waiting if not any(node is done for done in now)]
    del graph.node[:]
    graph.node.extend(ordered)
