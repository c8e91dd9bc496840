"""A batch of prompts on the host: token ids with the image placeholders expanded, pixels, and where the visual tokens
stand.

Plain NumPy, so that an engine can be driven without torch. Rows of a batch are padded on the left and have the same
number V of visual tokens.
"""

from dataclasses import dataclass, replace

import numpy as np

from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """B prompts of one V.

    Args:
        input_ids: int64 [B,S], image placeholders expanded to V tokens, padded on the left.
        attention_mask: int64 [B,S], 1 at real tokens.
        position_ids: int64 [B,S], the position of each token in its own full prompt (0 at padding).
        visual_index: int64 [B,V], where the visual tokens stand in the sequence, ascending.
        vision_inputs: the processor's tensors for the vision graph (for LLaVA: `pixel_values` fp32 [B,3,h,w]).
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    position_ids: np.ndarray
    visual_index: np.ndarray
    vision_inputs: dict[str, np.ndarray]

    @property
    def num_visual(self) -> int:
        """V, the visual tokens of each prompt."""
        return self.visual_index.shape[1]

    @property
    def next_position(self) -> np.ndarray:
        """int64 [B]: the position of the first generated token. Decoding goes on from the full length, whatever was
        dropped."""
        return self.position_ids[:, -1] + 1

    def after_vision(self, kept_patches: np.ndarray) -> "PromptBatch":
        """The batch without the placeholders of patches that the vision stage dropped.

        Args:
            kept_patches: int64 [B,K], ascending indices into the V visual tokens.

        Kept tokens keep their position ids. Rows stay equally long, since each loses V−K tokens.
        """
        if kept_patches.shape[1] == self.num_visual:
            return self
        rows, length = np.arange(len(self.input_ids))[:, None], self.input_ids.shape[1]
        keep = np.ones((len(rows), length), dtype=bool)
        keep[rows, self.visual_index] = False
        keep[rows, np.take_along_axis(self.visual_index, kept_patches, axis=1)] = True
        columns = np.nonzero(keep)[1].reshape(len(rows), -1)
        new_place = np.cumsum(keep, axis=1) - 1
        old_place = np.take_along_axis(self.visual_index, kept_patches, axis=1)
        return replace(
            self,
            input_ids=np.take_along_axis(self.input_ids, columns, axis=1),
            attention_mask=np.take_along_axis(self.attention_mask, columns, axis=1),
            position_ids=np.take_along_axis(self.position_ids, columns, axis=1),
            visual_index=np.take_along_axis(new_place, old_place, axis=1),
        )


def batch_prompts(
    token_ids: list[list[int]], image_token: int, pad_token: int, vision_inputs: dict[str, np.ndarray]
) -> PromptBatch:
    """Pad tokenised prompts (placeholders already expanded) on the left into one batch.

    Raises InputError where the prompts differ in their number of visual tokens.
    """
    length = max(len(row) for row in token_ids)
    input_ids = np.full((len(token_ids), length), pad_token, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(token_ids):
        input_ids[row, length - len(ids) :] = ids
        attention_mask[row, length - len(ids) :] = 1
    visual = (input_ids == image_token) & (attention_mask == 1)
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
        vision_inputs=vision_inputs,
    )


def stack_prompts(prompts: "list[PromptBatch]", pad_token: int) -> PromptBatch:
    """Join prepared prompts of equal V into one batch, padded on the left; vision inputs are joined along their first
    axis.

    Raises InputError where the prompts differ in their number of visual tokens.
    """
    counts = sorted({prompt.num_visual for prompt in prompts})
    if len(counts) > 1:
        raise InputError(f"prompts of one batch have different numbers of visual tokens {counts}: group them by number")
    length = max(prompt.input_ids.shape[1] for prompt in prompts)

    def padded(name: str, value: int) -> np.ndarray:
        rows = [getattr(prompt, name) for prompt in prompts]
        return np.concatenate(
            [np.pad(row, ((0, 0), (length - row.shape[1], 0)), constant_values=value) for row in rows]
        )

    return PromptBatch(
        input_ids=padded("input_ids", pad_token),
        attention_mask=padded("attention_mask", 0),
        position_ids=padded("position_ids", 0),
        visual_index=np.concatenate([prompt.visual_index + length - prompt.input_ids.shape[1] for prompt in prompts]),
        vision_inputs={
            name: np.concatenate([prompt.vision_inputs[name] for prompt in prompts])
            for name in prompts[0].vision_inputs
        },
    )
