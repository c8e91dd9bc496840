"""Three-axis rotary positions (temporal, height, width), as Qwen-VL counts them. Plain NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch


@dataclass(frozen=True)
class Block:
    """Visual tokens that stand together: an image, a video, or one frame of it.

    Args:
        shape: (temporal, rows, columns) in tokens.
        interval: temporal positions from one temporal patch to the next; fractions are cut off.
    """

    shape: tuple[int, int, int]
    interval: float = 1.0

    def places(self) -> np.ndarray:
        """int64 [t·h·w,3], from (0, 0, 0) on."""
        places = np.stack([axis.ravel() for axis in np.indices(self.shape)], axis=1)
        # In fp32, as the model computes it.
        times = (np.arange(self.shape[0]).astype(np.float32) * np.float32(self.interval)).astype(np.int64)
        places[:, 0] = times[places[:, 0]]
        return places

    @property
    def span(self) -> int:
        """How far the text behind it is moved on."""
        return max(self.shape[1:])


def three_axis_positions(batch: PromptBatch, blocks: Mapping[int, Sequence[Block]]) -> np.ndarray:
    """int64 [B,S,4]: the place of each token in its prompt, then temporal, height and width; 0 at padding.

    Args:
        blocks: by placeholder id, the blocks of all rows in order.
    """
    order = np.cumsum(batch.attention_mask, axis=1) - 1
    positions = np.repeat(np.maximum(order, 0)[:, :, None], 4, axis=2)
    coming = {token: iter(each) for token, each in blocks.items()}
    for row, visual in enumerate(batch.visual_index):
        done, moved = 0, 0
        while done < len(visual):
            start = int(visual[done])
            block = next(coming[int(batch.input_ids[row, start])])
            places = block.places()
            done, end = done + len(places), start + len(places)
            positions[row, start:end, 1:] = places + order[row, start] + moved
            # A block takes as many positions as its longer side, however many tokens it has.
            moved += block.span - len(places)
            positions[row, end:, 1:] = (order[row, end:] + moved)[:, None]
    return positions
