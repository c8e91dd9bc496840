"""Tokens that are weighted sums of encoder rows, or newlines: the tables of any-resolution tiles and pooled frames.

Every tile has side² patches and the encoder gives one row for each, so a row and a patch have the same number. M is the
number of rows behind a token; leading axes "…" are a feature map [h,w], frames of one [F,h,w], or a plain list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.base import InputSpec
from vitcop.calibrate.models.families.layout import TokenLayout, grid_places

if TYPE_CHECKING:
    from torch import Tensor

NEWLINE = -1
"""The row of a token that no patch stands for: the learnt vector that ends a line of a feature map."""

ROWS, WEIGHTS = "visual_rows", "row_weights"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Args:
    rows: int64 [...,M], all NEWLINE for a newline.
    weights: fp32 [...,M], all 0 for a newline.
    """

    rows: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        """Tokens."""
        return self.rows[..., 0].size

    @classmethod
    def of(cls, patches: np.ndarray, size: int) -> "Mixture":
        """Each of the patches [...] by itself: it stands M = `size` times in its table, with weights 1, 0, …"""
        rows = np.repeat(patches[..., None], size, axis=-1)
        weights = np.zeros(rows.shape, np.float32)
        weights[..., 0] = patches != NEWLINE
        return cls(rows=rows, weights=weights)

    @classmethod
    def pooled(cls, patches: np.ndarray, stride: int) -> "Mixture":
        """The means over squares of stride² patches of maps [...,h,w]; what is left at the edges is dropped."""
        *lead, height, width = patches.shape
        height, width = height // stride, width // stride
        cut = patches[..., : height * stride, : width * stride].reshape(*lead, height, stride, width, stride)
        rows = cut.swapaxes(-3, -2).reshape(*lead, height, width, stride**2)
        return cls(rows=rows, weights=np.full(rows.shape, 1 / stride**2, np.float32))

    @classmethod
    def bilinear(cls, patches: np.ndarray, height: int, width: int) -> "Mixture":
        """Maps [...,h,w] resized to [...,height,width]: M = 4. As torch's interpolate does it with corners not aligned
        and no antialiasing."""
        (top, bottom, down), (left, right, across) = (
            _neighbours(*sizes) for sizes in zip(patches.shape[-2:], (height, width), strict=True)
        )
        rows = np.stack([patches[..., y[:, None], x] for y in (top, bottom) for x in (left, right)], axis=-1)
        weights = np.stack([v[:, None] * h for v in (1 - down, down) for h in (1 - across, across)], axis=-1)
        return cls(rows=rows, weights=np.broadcast_to(weights, rows.shape))

    @classmethod
    def join(cls, parts: "Sequence[Mixture]") -> "Mixture":
        """The tokens of all parts, one after the other: [n,M]."""
        size = parts[0].rows.shape[-1]
        return cls(
            rows=np.concatenate([part.rows.reshape(-1, size) for part in parts]),
            weights=np.concatenate([part.weights.reshape(-1, size) for part in parts]),
        )

    def lines(self) -> "Mixture":
        """A map [h,w,M] with a newline after each of its lines: [h,w+1,M]."""
        edge = ((0, 0), (0, 1), (0, 0))
        return Mixture(
            rows=np.pad(self.rows, edge, constant_values=NEWLINE), weights=np.pad(self.weights, edge, constant_values=0)
        )

    def shifted(self, first: int) -> "Mixture":
        """The same tokens of rows that count from `first`."""
        return Mixture(rows=np.where(self.rows == NEWLINE, NEWLINE, self.rows + first), weights=self.weights)

    def layout(self, side: int) -> TokenLayout:
        """The tables of n tokens [n,M], the first of which is no newline. A token's place is that of the patch of the
        largest weight; a newline has the place and the patches of the token before it."""
        tokens = np.arange(len(self))
        standing = np.maximum.accumulate(np.where(self.rows[:, 0] == NEWLINE, 0, tokens))
        patches = self.rows[standing]
        main = patches[tokens, self.weights[standing].argmax(axis=1)]
        tile, place = np.divmod(main, side**2)
        # A single row needs no weight.
        mixed = {ROWS: self.rows, WEIGHTS: self.weights}
        return TokenLayout(
            patches=patches,
            grid=grid_places(side, side)[place],
            group=tile,
            tables=mixed if self.rows.shape[1] > 1 else {ROWS: self.rows[:, 0]},
        )


def _neighbours(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `target` places along an axis of `size`: the places before and after it, and the weight of the
    second."""
    # The step in fp32, then one rounding of product and difference (a fused multiply-add), as torch computes it.
    step = np.float64(np.float32(size) / np.float32(target))
    place = np.maximum((step * (np.arange(target) + 0.5) - 0.5).astype(np.float32), 0)
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), place - before.astype(np.float32)


def mixture_inputs(size: int) -> dict[str, InputSpec]:
    """The graph inputs of a mixture's tables, M = `size`."""
    if size == 1:
        return {ROWS: InputSpec("int64", ("B", "V"))}
    return {ROWS: InputSpec("int64", ("B", "V", size)), WEIGHTS: InputSpec("float32", ("B", "V", size))}


def mixed(rows: "Tensor", inputs: "dict[str, Tensor]") -> "Tensor":
    """[R,F] -> [B,V,F]: the rows of each token, summed by weight in fp32. A newline gets what it may."""
    from torch.nn.functional import embedding

    taken = embedding(inputs[ROWS].clamp_min(0), rows)
    if WEIGHTS not in inputs:
        return taken
    return (taken * inputs[WEIGHTS].unsqueeze(3)).sum(dim=2).to(rows.dtype)


def with_newlines(features: "Tensor", inputs: "dict[str, Tensor]", newline: "Tensor") -> "Tensor":
    """[B,V,H] with the vector `newline` [H] at every newline."""
    from torch import where

    rows = inputs[ROWS]
    first = rows if rows.dim() == 2 else rows[:, :, 0]
    return where((first < 0).unsqueeze(2), newline.to(features.dtype), features)
