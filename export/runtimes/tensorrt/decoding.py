"""Decoding on a TensorRT engine: caches that stay on the device, in one of two forms.

In place: caches of fixed capacity that the engine writes into; every address and shape stays the same, so one step is
one CUDA graph. Plain: the engine gives back caches that are one token longer; two sets of memory, each as large as the
engine's profile allows, take turns.

All calls happen on the runner's stream. Shape letters: B batch, S_g prompt length of a layer group, C_g capacity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from vitcop.export.bundle import Bundle
from vitcop.export.bundle.contract import group_of_layer
from vitcop.export.runtimes.tensorrt.session import Buffers, EngineSession
from vitcop.plugins.errors import InputError

_PARTS = ("key", "value")


@dataclass
class DecodeState:
    """Where decoding stands. The caches are the runner's own memory: a new prefill takes it over.

    Args:
        serial: which prefill it belongs to.
        rows: B.
        padding: int64 [B] on the host, padded places at the left of each row.
        lengths: S_g of each layer group, padding included.
        steps: tokens decoded since.
        position: int64 [B] or [B,4] on the device, of the next token.
        caches: plain form: "past_key_i" -> [B,Nkv,P_g,D].
        masks: plain form: int64 [B,P_g] of each layer group.
    """

    serial: int
    rows: int
    padding: np.ndarray
    lengths: tuple[int, ...]
    steps: int
    position: torch.Tensor
    caches: dict[str, torch.Tensor]
    masks: list[torch.Tensor]


class Decoder(Protocol):
    """One form of decoding."""

    def start(self, state: DecodeState, present: Mapping[str, torch.Tensor], mask: torch.Tensor) -> None:
        """Take over what the prefill gave: "present_key_i" [B,Nkv,S_g,D], and the mask [B,S] of its longest group."""
        ...

    def step(self, tokens: torch.Tensor, state: DecodeState) -> torch.Tensor:
        """One token a row (int64 [B] on the device) -> logits [B,1,vocab]; the state moves on."""
        ...

    def kv(self, state: DecodeState) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each layer, fp32 [B,Nkv,P_g,D] on the host, padding at the left."""
        ...


class PlainDecoder:
    """Caches that grow by joining."""

    def __init__(self, session: EngineSession, bundle: Bundle, buffers: Buffers) -> None:
        self.session, self.buffers, self.layers = session, buffers, range(bundle.schedule.num_layers)

    def start(self, state: DecodeState, present: Mapping[str, torch.Tensor], mask: torch.Tensor) -> None:
        state.caches = {f"past_{part}_{i}": present[f"present_{part}_{i}"] for i in self.layers for part in _PARTS}
        state.masks = [mask[:, :length] for length in state.lengths]

    def step(self, tokens: torch.Tensor, state: DecodeState) -> torch.Tensor:
        one = torch.ones((state.rows, 1), dtype=torch.int64, device=tokens.device)
        state.masks = [torch.cat([mask, one], dim=1) for mask in state.masks]
        feeds = {"input_ids": tokens[:, None], "position_ids": state.position[:, None], **state.caches}
        feeds |= {f"attention_mask_{group}": mask for group, mask in enumerate(state.masks)}
        out = self.session.run(feeds, self._memory(state))
        state.caches = {f"past_{part}_{i}": out[f"present_{part}_{i}"] for i in self.layers for part in _PARTS}
        state.position += 1
        return out["logits"]

    def kv(self, state: DecodeState) -> list[tuple[np.ndarray, np.ndarray]]:
        def host(name: str) -> np.ndarray:
            return state.caches[name].float().cpu().numpy()

        return [(host(f"past_key_{i}"), host(f"past_value_{i}")) for i in self.layers]

    def _memory(self, state: DecodeState) -> dict[str, torch.Tensor]:
        """Where this step's caches go: not where it reads, so two sets of memory take turns."""
        made = {}
        for i in self.layers:
            for part in _PARTS:
                past = state.caches[f"past_{part}_{i}"]
                rows, heads, length, head_dim = past.shape
                most_rows, _, most_length, _ = self.session.inputs[f"past_{part}_{i}"].greatest
                made[f"present_{part}_{i}"] = self.buffers.view(
                    f"cache_{state.steps % 2}.{part}_{i}",
                    (rows, heads, length + 1, head_dim),
                    past.dtype,
                    most=(most_rows, heads, most_length + 1, head_dim),
                )
        return made


class InPlaceDecoder:
    """Caches of fixed capacity, one CUDA graph a step.

    Args:
        form: "lengths" or "mask", how the engine is told where the caches end.
        capacities: C_g of each layer group.
        use_graph: replay a captured graph from the second step of a batch size on.
    """

    def __init__(
        self,
        session: EngineSession,
        bundle: Bundle,
        buffers: Buffers,
        *,
        form: str,
        capacities: Sequence[int],
        use_graph: bool,
    ) -> None:
        self.session, self.bundle, self.buffers = session, bundle, buffers
        self.form, self.capacities, self.use_graph = form, tuple(capacities), use_graph
        self.groups = group_of_layer(bundle.schedule)
        self._feeds: dict[str, torch.Tensor] = {}
        self._logits: torch.Tensor | None = None
        self._rows = 0
        self._replay: Callable[[], None] | None = None
        self._warm = False

    def start(self, state: DecodeState, present: Mapping[str, torch.Tensor], mask: torch.Tensor) -> None:
        if any(length >= capacity for length, capacity in zip(state.lengths, self.capacities, strict=True)):
            raise InputError(
                f"prompts of KV lengths {list(state.lengths)} leave no room in caches of {list(self.capacities)}; "
                "build the engine with a larger max_text, max_images or max_new_tokens"
            )
        if state.rows != self._rows:
            self._prepare(state)
        device = self.buffers.device
        padding = torch.as_tensor(state.padding, device=device)
        for group, length in enumerate(state.lengths):
            real = (length - padding).to(torch.int32)
            self._feeds[f"write_index_{group}"].copy_(real)
            if self.form == "lengths":
                self._feeds[f"kv_length_{group}"].copy_(real + 1)
            else:
                places = torch.arange(self.capacities[group], device=device)
                self._feeds[f"kv_mask_{group}"].copy_((places <= real[:, None])[:, None, None])
        self._feeds["position_ids"].copy_(state.position[:, None])
        for layer, group in enumerate(self.groups):
            for part in _PARTS:
                past = self._feeds[f"past_{part}_{layer}"]
                new = present[f"present_{part}_{layer}"]
                past[:, :, : state.lengths[group]].copy_(moved_left(new, padding) if state.padding.any() else new)

    def step(self, tokens: torch.Tensor, state: DecodeState) -> torch.Tensor:
        full = [g for g, length in enumerate(state.lengths) if length + state.steps >= self.capacities[g]]
        if full:
            raise InputError(
                f"the KV cache of layer group {full[0]} is full ({self.capacities[full[0]]} tokens); build the engine "
                "with a larger max_new_tokens"
            )
        self._feeds["input_ids"].copy_(tokens[:, None])
        self._execute()
        self._move_on()
        assert self._logits is not None
        return self._logits

    def kv(self, state: DecodeState) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for layer, group in enumerate(self.groups):
            length = state.lengths[group] + state.steps
            pair = []
            for part in _PARTS:
                cache = self._feeds[f"past_{part}_{layer}"][:, :, :length].float().cpu().numpy()
                placed = np.zeros_like(cache)
                for row, begin in enumerate(state.padding):
                    placed[row, :, begin:] = cache[row, :, : length - begin]
                pair.append(placed)
            found.append((pair[0], pair[1]))
        return found

    def _prepare(self, state: DecodeState) -> None:
        """Memory and addresses for a number of rows; they stay as they are until the number changes."""
        shapes = {"input_ids": (state.rows, 1), "position_ids": (state.rows, 1, *state.position.shape[1:])}
        for group, capacity in enumerate(self.capacities):
            shapes[f"write_index_{group}"] = (state.rows,)
            bound = (state.rows,) if self.form == "lengths" else (state.rows, 1, 1, capacity)
            shapes["kv_length_" + str(group) if self.form == "lengths" else f"kv_mask_{group}"] = bound
        facts = self.bundle.manifest.architecture
        for layer, group in enumerate(self.groups):
            for part in _PARTS:
                shape = (state.rows, facts.num_kv_heads, self.capacities[group], facts.head_dim)
                shapes[f"past_{part}_{layer}"] = shape
        slots = self.session.inputs
        self._feeds = {
            name: self.buffers.view(f"decode.{name}", shape, slots[name].dtype) for name, shape in shapes.items()
        }
        for tensor in self._feeds.values():
            tensor.zero_()  # Places beyond the length are never looked at, but under a mask 0 · NaN would be.
        presents = {name.replace("past_", "present_"): t for name, t in self._feeds.items() if name.startswith("past_")}
        self._logits = self.session.bind(self._feeds, presents)["logits"]
        self._rows, self._replay, self._warm = state.rows, None, False

    def _execute(self) -> None:
        """One step: plainly the first time, then captured, then replayed. All do the same to the same memory."""
        if self._replay is not None:
            self._replay()
            return
        if not (self.use_graph and self._warm):
            self.session.enqueue()
            self._warm = True
            return
        self._replay = self.session.stream.capture(self.session.enqueue)
        self._replay()

    def _move_on(self) -> None:
        """Write index, length or mask and position of the next token, on the device."""
        for group in range(len(self.capacities)):
            index = self._feeds[f"write_index_{group}"]
            index += 1
            if self.form == "lengths":
                self._feeds[f"kv_length_{group}"].add_(1)
            else:
                mask = self._feeds[f"kv_mask_{group}"][:, 0, 0]
                mask.scatter_(1, index.long().clamp(max=mask.shape[1] - 1)[:, None], True)
        self._feeds["position_ids"].add_(1)


def moved_left(cache: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """[B,Nkv,S,D] without the `padding` [B] places at the left of each row; what is then missing at the right repeats
    the last place, and is never read."""
    length = cache.shape[2]
    places = torch.arange(length, device=cache.device)[None] + padding[:, None]
    index = places.clamp(max=length - 1)[:, None, :, None].expand(-1, cache.shape[1], -1, cache.shape[3])
    return cache.gather(2, index)
