"""From prompts to logits over three opened engines: vision, prefill with drops inside, decode.

Everything stays on the device of the stream; what crosses to the host is logits and the kept indices. Knows nothing of
TensorRT beyond what a session can do, so that tests can run it on a CPU over other sessions.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.device_inputs import PromptTensors
from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.contract import carried_tensors, plane_names
from vitcop.export.runtimes.lengths import check_lengths
from vitcop.export.runtimes.tensorrt.decoding import Decoder, DecodeState
from vitcop.export.runtimes.tensorrt.streams import Stream
from vitcop.plugins.errors import InputError


class Session(Protocol):
    """An opened engine; `EngineSession` is one."""

    inputs: dict[str, Any]

    def run(
        self, feeds: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]: ...


class EngineRun:
    """`vitcop.calibrate.run.runner.Runner` over opened engines.

    Args:
        bundle: an opened bundle.
        vision, prefill: its engines.
        decoder: the decode engine in its form of caches.
        stream: what everything runs on.
        dtype: float type that the engines compute in: "float32", "float16" or "bfloat16".
    """

    name = "tensorrt"

    def __init__(
        self, bundle: Bundle, vision: Session, prefill: Session, decoder: Decoder, stream: Stream, *, dtype: str
    ) -> None:
        self.bundle, self.schedule, self.stream, self.device = bundle, bundle.schedule, stream, stream.device
        self._vision, self._prefill, self._decoder = vision, prefill, decoder
        self._carried = (*plane_names(bundle.manifest.architecture.num_planes), *carried_tensors(self.schedule))
        self.dtype = dtype
        self._serial = 0

    def prefill(self, batch: PromptBatch) -> Prefill:
        """Run vision tower and prompt. Raises InputError for shapes outside the engines' profiles."""
        self._serial += 1
        with self.stream.active():
            begin = self.stream.mark()
            seen = self._run_vision(batch)
            vision_done = self.stream.mark()
            prompt = PromptTensors.of(batch, self.device)
            if "kept_patches" in seen:
                prompt = prompt.after_drop(seen["kept_patches"].long())
            mask = prompt.mask.long()
            feeds = {
                "input_ids": prompt.input_ids,
                "attention_mask": mask,
                "position_ids": prompt.positions,
                "visual_index": prompt.visual_index,
                **{name: seen[name] for name in self._carried},
            }
            out = self._prefill.run(feeds)
            prefill_done = self.stream.mark()
            found = tuple(out[f"present_key_{layers[0]}"].shape[2] for layers in self.schedule.groups)
            num_other = batch.input_ids.shape[1] - batch.num_visual
            state = DecodeState(
                serial=self._serial,
                rows=len(batch.input_ids),
                padding=(batch.attention_mask == 0).sum(axis=1),
                lengths=check_lengths(self.bundle, found, batch.num_visual, num_other),
                steps=0,
                position=prompt.next_position.clone(),
                caches={},
                masks=[],
            )
            present = {name: tensor for name, tensor in out.items() if name.startswith("present_")}
            self._decoder.start(state, present, mask)
            logits = _host_logits(out["logits"])
            self.stream.wait()
            return Prefill(
                logits=logits,
                state=state,
                vision=_vision_trace(seen),
                drops=tuple(_trace(out, index) for index in range(len(self.schedule.drops))),
                kv_lengths=state.lengths,
                kv_bytes=sum(tensor.numel() * tensor.element_size() for tensor in present.values()),
                seconds={
                    "vision": self.stream.seconds(begin, vision_done),
                    "prefill": self.stream.seconds(vision_done, prefill_done),
                },
            )

    def decode(self, token_ids: np.ndarray, state: DecodeState) -> np.ndarray:
        """One token a row (int64 [B]) -> the next logits fp32 [B,vocab]."""
        self._check_state(state)
        with self.stream.active():
            tokens = torch.as_tensor(np.asarray(token_ids, dtype=np.int64), device=self.device)
            logits = _host_logits(self._decoder.step(tokens, state))
        state.steps += 1
        return logits

    def kv(self, state: DecodeState) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each decoder layer, fp32 [B,Nkv,P_g,D]: the one copy of them to the host, to compare."""
        self._check_state(state)
        with self.stream.active():
            return self._decoder.kv(state)

    def _run_vision(self, batch: PromptBatch) -> dict[str, torch.Tensor]:
        if not batch.num_visual:
            return self._nothing(len(batch.input_ids))
        missing = sorted(set(self._vision.inputs) - set(batch.vision_inputs))
        if missing:
            raise InputError(f"the prompts bring no {missing[0]!r}, which the vision graph of {self.bundle.path} needs")
        feeds = {name: torch.as_tensor(batch.vision_inputs[name], device=self.device) for name in self._vision.inputs}
        return self._vision.run(feeds)

    def _nothing(self, rows: int) -> dict[str, torch.Tensor]:
        """What the vision graph would give for prompts of text alone."""
        hidden = self.bundle.manifest.architecture.hidden_size
        per_token = carried_tensors(self.schedule)
        made = {
            name: torch.zeros((rows, 0) if name in per_token else (rows, 0, hidden), device=self.device)
            for name in self._carried
        }
        none = torch.zeros((rows, 0), dtype=torch.int64, device=self.device)
        return made | ({"kept_patches": none} if self.schedule.vision else {})

    def _check_state(self, state: DecodeState) -> None:
        if state.serial != self._serial:
            raise RuntimeError("the state belongs to an earlier prefill, whose memory a later one has taken over")


def _vision_trace(seen: Mapping[str, torch.Tensor]) -> DropTrace | None:
    if "kept_patches" not in seen:
        return None
    labels = seen.get("cluster_labels")
    return DropTrace(kept_visual=_host(seen["kept_patches"]), labels=None if labels is None else _host(labels))


def _trace(out: Mapping[str, torch.Tensor], index: int) -> DropTrace:
    assignment = out.get(f"assignment_{index}")
    return DropTrace(
        kept_visual=_host(out[f"kept_visual_{index}"]),
        assignment=None if assignment is None else assignment.to("cpu", torch.float32, copy=True).numpy(),
    )


def _host(index: torch.Tensor) -> np.ndarray:
    return index.to("cpu", torch.int64, copy=True).numpy()


def _host_logits(logits: torch.Tensor) -> np.ndarray:
    """[B,1,vocab] on the device -> fp32 [B,vocab] on the host; waits for the stream. A copy in any case: the next step
    writes into the same memory."""
    return logits[:, -1].to("cpu", torch.float32, copy=True).numpy()
