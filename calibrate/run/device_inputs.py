"""A batch of prompts on the device, and what becomes of it there: nothing here reads a value back or waits.

Shape letters: B batch, S sequence, V visual tokens, K kept tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.plugins import selection


@dataclass(frozen=True, kw_only=True)
class PromptTensors:
    """The text side of a PromptBatch; see there.

    Args:
        input_ids: int64 [B,S].
        mask: bool [B,S], True at real tokens.
        positions: int64 [B,S] position ids, or [B,S,4] with three axes.
        visual_index: int64 [B,V].
        next_position: int64 [B] or [B,4], for a full prompt.
    """

    input_ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    visual_index: torch.Tensor
    next_position: torch.Tensor

    @classmethod
    def of(cls, batch: PromptBatch, device: torch.device) -> "PromptTensors":
        """Copy a batch to the device."""
        return cls(
            input_ids=torch.as_tensor(batch.input_ids, device=device),
            mask=torch.as_tensor(batch.attention_mask, device=device).bool(),
            positions=torch.as_tensor(batch.position_ids, device=device),
            visual_index=torch.as_tensor(batch.visual_index, device=device),
            next_position=torch.as_tensor(batch.next_position, device=device),
        )

    def after_drop(self, kept_visual: torch.Tensor) -> "PromptTensors":
        """The prompts without the visual tokens that a stage of a schedule dropped, as PromptBatch.after_drop.

        Args:
            kept_visual: int64 [B,K], ascending indices into the V visual tokens.
        """
        if kept_visual.shape[1] == self.visual_index.shape[1]:
            return self
        length = self.input_ids.shape[1]
        kept_positions, visual_index_BK = selection.after_drop(kept_visual, self.visual_index, length)
        return PromptTensors(
            input_ids=self.input_ids.gather(1, kept_positions),
            mask=self.mask.gather(1, kept_positions),
            positions=rows_of(self.positions, kept_positions),
            visual_index=visual_index_BK,
            next_position=self.next_position,
        )


@dataclass(frozen=True, kw_only=True)
class VisionTensors:
    """The visual side of a PromptBatch; see there.

    Args:
        model_inputs: floats in the model's type.
        tables: the vision inputs.
        visual_ids: int64 [B,V], placeholder id of each visual token.
        counts: (placeholder id, how many of it stand in the batch) of each kind that is there, images before videos.
            A fact of the host, since shapes depend on it.
    """

    model_inputs: dict[str, torch.Tensor]
    tables: dict[str, torch.Tensor]
    visual_ids: torch.Tensor
    counts: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, batch: PromptBatch, visual_tokens: Sequence[int], device: torch.device, dtype: torch.dtype
    ) -> "VisionTensors":
        """Copy a batch to the device; `visual_tokens` are the family's placeholder ids."""

        def tensor(array: Any) -> torch.Tensor:
            return torch.as_tensor(array, device=device, dtype=dtype if array.dtype.kind == "f" else None)

        counts = [(token, int(np.count_nonzero(batch.visual_ids == token))) for token in visual_tokens]
        return cls(
            model_inputs={name: tensor(array) for name, array in batch.model_inputs.items()},
            tables={name: torch.as_tensor(array, device=device) for name, array in batch.vision_inputs.items()},
            visual_ids=torch.as_tensor(batch.visual_ids, device=device),
            counts=tuple((token, count) for token, count in counts if count),
        )


def places_of(positions: torch.Tensor) -> torch.Tensor:
    """int64 [B,S]: the place of each token in its full prompt, from position ids [B,S] or [B,S,4]."""
    return positions if positions.dim() == 2 else positions[..., 0].contiguous()


def rows_of(rows_BVX: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """[B,V,…], [B,K] -> [B,K,…]."""
    return rows_BVX[torch.arange(len(index_BK), device=index_BK.device)[:, None], index_BK]
