"""A batch of prompts on the host: token ids with the placeholders expanded, pixels, and where the visual tokens stand.

Plain NumPy, so that an engine can be driven without torch. Rows of a batch are padded on the left and have the same
number V of visual tokens.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """B prompts of one V.

    Args:
        input_ids: int64 [B,S], each image or video expanded to its visual tokens, padded on the left.
        attention_mask: int64 [B,S], 1 at real tokens.
        position_ids: int64 [B,S], the position of each token in its own full prompt (0 at padding); or [B,S,4] for
            families with three-axis rotary positions: that position, then temporal, height and width.
        visual_index: int64 [B,V], where the visual tokens stand in the sequence, ascending.
        model_inputs: what the transformers model takes beside ids, mask and positions (for LLaVA: `pixel_values`
            fp32 [T,3,h,w], all images of the batch in order); empty for prompts of text alone.
        vision_inputs: what the vision graph takes; the same pixels, and the family's index tensors.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    position_ids: np.ndarray
    visual_index: np.ndarray
    model_inputs: dict[str, np.ndarray] = field(default_factory=dict)
    vision_inputs: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_visual(self) -> int:
        """V, the visual tokens of each prompt."""
        return self.visual_index.shape[1]

    @property
    def next_position(self) -> np.ndarray:
        """int64 [B] or [B,4]: the position of the first generated token, for a full prompt. Decoding goes on from the
        full length, whatever was dropped; with three axes from the largest position of all, as the models do, since the
        times of a long video may run ahead of the text behind it."""
        following = self.position_ids[:, -1] + 1
        if following.ndim == 2:
            following[:, 1:] = self.position_ids[..., 1:].max(axis=(1, 2))[:, None] + 1
        return following

    @property
    def places(self) -> np.ndarray:
        """int64 [B,S]: the place of each token in its full prompt."""
        return self.position_ids if self.position_ids.ndim == 2 else self.position_ids[..., 0]

    @property
    def visual_ids(self) -> np.ndarray:
        """int64 [B,V]: the placeholder id of each visual token, which tells images from videos."""
        return np.take_along_axis(self.input_ids, self.visual_index, axis=1)

    def token_ids(self) -> list[list[int]]:
        """The rows without their padding."""
        return [ids[mask == 1].tolist() for ids, mask in zip(self.input_ids, self.attention_mask, strict=True)]

    def after_drop(self, kept_visual: np.ndarray) -> "PromptBatch":
        """The batch without the visual tokens that a stage of a schedule dropped.

        Args:
            kept_visual: int64 [B,K], ascending indices into the V visual tokens.

        Kept tokens keep their position ids. Rows stay equally long, since each loses V−K tokens.
        """
        if kept_visual.shape[1] == self.num_visual:
            return self
        rows, length = np.arange(len(self.input_ids))[:, None], self.input_ids.shape[1]
        keep = np.ones((len(rows), length), dtype=bool)
        keep[rows, self.visual_index] = False
        keep[rows, np.take_along_axis(self.visual_index, kept_visual, axis=1)] = True
        columns = np.nonzero(keep)[1].reshape(len(rows), -1)
        new_place = np.cumsum(keep, axis=1) - 1
        old_place = np.take_along_axis(self.visual_index, kept_visual, axis=1)
        return replace(
            self,
            input_ids=np.take_along_axis(self.input_ids, columns, axis=1),
            attention_mask=np.take_along_axis(self.attention_mask, columns, axis=1),
            position_ids=self.position_ids[rows, columns],
            visual_index=np.take_along_axis(new_place, old_place, axis=1),
        )


def batch_prompts(token_ids: list[list[int]], visual_tokens: Collection[int], pad_token: int) -> PromptBatch:
    """Pad tokenised prompts (placeholders already expanded) on the left into one batch, without any pixels.

    Args:
        visual_tokens: the placeholder ids that visual tokens stand for.

    Raises InputError where the prompts differ in their number of visual tokens.
    """
    length = max(len(row) for row in token_ids)
    input_ids = np.full((len(token_ids), length), pad_token, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(token_ids):
        input_ids[row, length - len(ids) :] = ids
        attention_mask[row, length - len(ids) :] = 1
    visual = np.isin(input_ids, list(visual_tokens)) & (attention_mask == 1)
    counts = visual.sum(axis=1)
    if (counts != counts[0]).any():
        raise InputError(
            f"prompts of one batch have different numbers of visual tokens {sorted(set(counts.tolist()))}: group them "
            "by number"
        )
    return PromptBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0),
        visual_index=np.nonzero(visual)[1].reshape(len(token_ids), -1).astype(np.int64),
    )
