"""The unmodified Hugging Face model as a Runner: its own forward, its own masks, its own cache."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.caches import cache_argument, cache_of
from vitcop.calibrate.run.runner import Prefill

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values in a transformers cache."""
    return sum(
        tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


def clock(device: torch.device) -> float:
    """Seconds on a steady clock, once the device has finished what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class OriginalState:
    """Decode state: transformers' cache, the mask [B,P] of what it holds, and the position [B] (or [B,4]) of the next
    token."""

    cache: Any
    mask: torch.Tensor
    next_position: torch.Tensor


def next_positions(first: torch.Tensor, count: int) -> torch.Tensor:
    """Position ids of the next `count` tokens: [B,T] from [B], or [B,T,4] from [B,4]."""
    steps_T = torch.arange(count, device=first.device)
    return first[:, None] + (steps_T if first.dim() == 1 else steps_T[:, None])


class OriginalRunner:
    """The model as its authors wrote it; the yardstick of every schedule."""

    name = "original"

    def __init__(self, model: Any, family: "Family") -> None:
        self.model = model
        self.family = family

    @torch.inference_mode()
    def prefill(self, batch: PromptBatch) -> Prefill:
        model = self.model
        begun = clock(model.device)
        mask_BS = torch.as_tensor(batch.attention_mask, device=model.device)
        positions = torch.as_tensor(batch.position_ids, device=model.device)
        output = model(
            input_ids=torch.as_tensor(batch.input_ids, device=model.device),
            attention_mask=mask_BS,
            position_ids=self.family.model_position_ids(positions),
            **{
                name: torch.as_tensor(
                    array, device=model.device, dtype=model.dtype if array.dtype.kind == "f" else None
                )
                for name, array in batch.model_inputs.items()
            },
            use_cache=True,
            logits_to_keep=1,
        )
        next_position = torch.as_tensor(batch.next_position, device=model.device)
        return Prefill(
            logits=output.logits[:, -1].float().cpu().numpy(),
            state=OriginalState(cache_of(output), mask_BS, next_position),
            kv_lengths=(mask_BS.shape[1],),
            kv_bytes=cache_bytes(cache_of(output)),
            # The model's own forward runs the vision tower inside, so the two cannot be told apart here.
            seconds={"vision": 0.0, "prefill": clock(model.device) - begun},
        )

    def decode(self, token_ids: np.ndarray, state: OriginalState) -> np.ndarray:
        return self.extend(token_ids[:, None], state)[:, -1]

    @torch.inference_mode()
    def extend(self, token_ids: np.ndarray, state: OriginalState) -> np.ndarray:
        """Feed T tokens a row (int64 [B,T]) at once; logits fp32 [B,T,vocab]."""
        ids_BT = torch.as_tensor(token_ids, device=self.model.device)
        state.mask = torch.cat([state.mask, state.mask.new_ones(ids_BT.shape)], dim=1)
        output = self.model(
            input_ids=ids_BT,
            attention_mask=state.mask,
            position_ids=self.family.model_position_ids(next_positions(state.next_position, ids_BT.shape[1])),
            **cache_argument(state.cache),
            use_cache=True,
        )
        state.next_position = state.next_position + ids_BT.shape[1]
        return output.logits.float().cpu().numpy()
