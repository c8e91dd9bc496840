"""Running a bundle on ONNX Runtime: vision, prefill with drops inside, decode with one KV length for each layer group.

NumPy on the host, OrtValues for features and caches; no torch. Keys and values never leave the device between steps.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.contract import carried_tensors, plane_names, sliding_groups
from vitcop.export.runtimes.lengths import check_lengths
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.export.runtimes.onnxruntime.sessions import GraphSession
from vitcop.plugins.errors import InputError

_PARTS = ("key", "value")


@dataclass
class DecodeState:
    """Where decoding stands: caches of all layers, one mask for each layer group (and the places of its tokens in the
    full prompt, of groups with sliding windows), the next position of each row."""

    past: dict[str, Any]  # "past_key_0" -> OrtValue [B,Nkv,P_g,D]
    masks_BP: list[np.ndarray]
    places_BP: dict[int, np.ndarray]
    next_position: np.ndarray  # [B], or [B,4] with three axes


class OnnxRuntimeRunner:
    """`vitcop.calibrate.run.runner.Runner` of a bundle.

    Args:
        bundle: an opened bundle.
        device: "cpu" or "cuda".
        threads: threads inside one operation, or None for ONNX Runtime's own choice.

    Raises InputError for a graph that ONNX Runtime refuses, MissingError where it lacks the device.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> None:
        options = OnnxRuntimeOptions(device=device, threads=threads)
        self.bundle, self.schedule = bundle, bundle.schedule
        self._vision, self._prefill, self._decode = (
            GraphSession(bundle, part, options) for part in ("vision", "prefill", "decode")
        )
        layers = range(self.schedule.num_layers)
        self._present = [f"present_{part}_{layer}" for layer in layers for part in _PARTS]
        self._carried = (*plane_names(bundle.manifest.architecture.num_planes), *carried_tensors(self.schedule))
        self._sliding = sliding_groups(self.schedule, bundle.manifest.architecture)
        self._past = [f"past_{part}_{layer}" for layer in layers for part in _PARTS]

    def prefill(self, batch: PromptBatch) -> Prefill:
        """Run vision tower and prompt. Raises InputError where the engine's lengths are not those of its schedule."""
        start = perf_counter()
        seen = self._run_vision(batch)
        vision_done = perf_counter()
        kept = seen.get("kept_patches")
        short = batch if kept is None else batch.after_drop(kept)
        feeds = {
            "input_ids": short.input_ids,
            "attention_mask": short.attention_mask,
            "position_ids": short.position_ids,
            "visual_index": short.visual_index,
            **{name: seen[name] for name in self._carried},
        }
        out = self._prefill.run(feeds, stay=self._present)
        prefill_done = perf_counter()
        found = tuple(out[f"present_key_{layers[0]}"].shape()[2] for layers in self.schedule.groups)
        num_other = short.input_ids.shape[1] - short.num_visual
        lengths = check_lengths(self.bundle, found, batch.num_visual, num_other)
        state = DecodeState(
            past=dict(zip(self._past, (out[name] for name in self._present), strict=True)),
            masks_BP=[short.attention_mask[:, :length] for length in lengths],
            places_BP=self._places(short, out),
            next_position=batch.next_position.copy(),
        )
        return Prefill(
            logits=_logits(out),
            state=state,
            vision=None if kept is None else DropTrace(kept_visual=kept, labels=_host(seen.get("cluster_labels"))),
            drops=tuple(
                DropTrace(kept_visual=out[f"kept_visual_{index}"], assignment=out.get(f"assignment_{index}"))
                for index in range(len(self.schedule.drops))
            ),
            kv_lengths=lengths,
            kv_bytes=sum(_num_bytes(value) for value in state.past.values()),
            seconds={"vision": vision_done - start, "prefill": prefill_done - vision_done},
        )

    def decode(self, token_ids: np.ndarray, state: DecodeState) -> np.ndarray:
        """One token a row (int64 [B]) -> the next logits fp32 [B,vocab]."""
        one = np.ones((len(token_ids), 1), dtype=np.int64)
        state.masks_BP = [np.concatenate([mask, one], axis=1) for mask in state.masks_BP]
        here = state.next_position.reshape(len(token_ids), -1)[:, :1]
        state.places_BP = {g: np.concatenate([places, here], axis=1) for g, places in state.places_BP.items()}
        feeds = {
            "input_ids": np.asarray(token_ids, dtype=np.int64)[:, None],
            "position_ids": state.next_position[:, None],
            **{f"attention_mask_{group}": mask for group, mask in enumerate(state.masks_BP)},
            **{f"key_places_{group}": places for group, places in state.places_BP.items()},
            **state.past,
        }
        out = self._decode.run(feeds, stay=self._present)
        state.past = dict(zip(self._past, (out[name] for name in self._present), strict=True))
        state.next_position = state.next_position + 1
        return _logits(out)

    def kv(self, state: DecodeState) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each decoder layer, fp32 [B,Nkv,P_g,D]."""
        flat = [state.past[name].numpy().astype(np.float32) for name in self._past]
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _run_vision(self, batch: PromptBatch) -> dict[str, Any]:
        if not batch.num_visual:
            return self._nothing(len(batch.input_ids))
        wanted = self._vision.inputs
        missing = sorted(set(wanted) - set(batch.vision_inputs))
        if missing:
            raise InputError(f"the prompts bring no {missing[0]!r}, which the vision graph of {self.bundle.path} needs")
        return self._vision.run({name: batch.vision_inputs[name] for name in wanted}, stay=self._carried)

    def _nothing(self, batch: int) -> dict[str, Any]:
        """What the vision graph would give for prompts of text alone."""
        hidden = self.bundle.manifest.architecture.hidden_size
        per_token = carried_tensors(self.schedule)
        made = {
            name: np.zeros((batch, 0) if name in per_token else (batch, 0, hidden), dtype=np.float32)
            for name in self._carried
        }
        return made | ({"kept_patches": np.zeros((batch, 0), dtype=np.int64)} if self.schedule.vision else {})

    def _places(self, short: PromptBatch, out: dict[str, Any]) -> dict[int, np.ndarray]:
        """By layer group with sliding windows, int64 [B,P_g]: where each of its tokens stood in its full prompt."""
        places = {}
        for group in range(max(self._sliding, default=-1) + 1):
            short = short if group == 0 else short.after_drop(out[f"kept_visual_{group - 1}"])
            if group in self._sliding:
                places[group] = short.places
        return places


def _host(value: Any) -> np.ndarray | None:
    """A tensor that may have stayed where the engine runs."""
    return value if value is None or isinstance(value, np.ndarray) else value.numpy()


def _logits(out: dict[str, Any]) -> np.ndarray:
    return out["logits"][:, -1].astype(np.float32)


def _num_bytes(value: Any) -> int:
    width = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(bfloat16)": 2}[value.data_type()]
    return int(np.prod(value.shape())) * width
