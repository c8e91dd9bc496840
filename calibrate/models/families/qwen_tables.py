"""Index tables of encoders that see images of any size as units of merged patches (Qwen2.5-VL, Qwen3-VL).

A unit is the m×m patches that become one visual token; processors give patches unit by unit, frame by frame. A frame is
one image, or one temporal patch (a pair of frames) of a video; nothing looks further than its frame. Plain NumPy.

Shape letters: F frames, U units, M patches of a unit, S segments, L slots of a segment.
"""

import numpy as np

from vitcop.calibrate.models.families.layout import TokenLayout


def frame_grids(grid_thw: np.ndarray, merge: int) -> np.ndarray:
    """int64 [n,3], (temporal, height, width) of each image or video in patches -> [F,2], (rows, columns) of each frame
    in units."""
    return np.repeat(grid_thw[:, 1:] // merge, grid_thw[:, 0], axis=0)


def unit_places(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[F,2] -> int64 [U], the frame of each unit, and [U,2], its (row, column) there."""
    counts = frames.prod(axis=1)
    frame = np.repeat(np.arange(len(frames)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return frame, np.stack(np.divmod(within, frames[frame, 1]), axis=1)


def patch_places(frames: np.ndarray, merge: int) -> np.ndarray:
    """[F,2] -> int64 [U,M,2]: (row, column) of each patch in its frame, in patches."""
    inside = np.stack(np.divmod(np.arange(merge * merge), merge), axis=1)
    return unit_places(frames)[1][:, None] * merge + inside


def windows(frames: np.ndarray, side: int) -> np.ndarray:
    """[F,2] -> int64 [U]: the window of each unit, `side` units wide and high (less at the borders), window after
    window and frame after frame."""
    frame, place = unit_places(frames)
    across = -(-frames // side)
    first = np.cumsum(across.prod(axis=1)) - across.prod(axis=1)
    row, column = (place // side).T
    return first[frame] + row * across[frame, 1] + column


def padded_segments(segment: np.ndarray, per_unit: int, slots: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Segments of different lengths as rows of one table.

    Args:
        segment: int64 [U], the segment of each unit; every segment has at least one.
        per_unit: M.
        slots: L in patches, at least the length of the longest segment, and by default just that.

    Returns int64 [S,L], the patches of each segment, −1 in slots that stay empty; and [U,M], the slot of each patch,
    counted over all rows.
    """
    patches = np.repeat(segment, per_unit)
    counts = np.bincount(patches)
    slots = slots or int(counts.max())
    order = np.argsort(patches, kind="stable")
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty_like(order)
    place[order] = patches[order] * slots + rank
    table = np.full(len(counts) * slots, -1, dtype=np.int64)
    table[place] = np.arange(len(place))
    return table.reshape(-1, slots), place.reshape(-1, per_unit)


def bilinear_taps(frames: np.ndarray, merge: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How a learned grid of side×side embeddings is stretched over each frame, corner to corner.

    Returns int64 [U,M,4], the grid cells around each patch, and fp32 [U,M,4], their weights.
    """
    sizes = frames[unit_places(frames)[0]][:, None] * merge
    # In fp32 and in this order, as the model computes it: the floor of a product that is almost whole must agree.
    at = patch_places(frames, merge).astype(np.float32) * np.float32(side - 1) / np.maximum(sizes - 1, 1).astype("f4")
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    part = at - low.astype(np.float32)
    rows, columns = (((low[..., i], 1 - part[..., i]), (high[..., i], part[..., i])) for i in (0, 1))
    taps = [row * side + column for row, _ in rows for column, _ in columns]
    weights = [of_row * of_column for _, of_row in rows for _, of_column in columns]
    return np.stack(taps, axis=2), np.stack(weights, axis=2)


def unit_layout(frames: np.ndarray, merge: int, before: np.ndarray) -> TokenLayout | None:
    """Every unit of these frames [F,2] is a token; None of no frames.

    Args:
        before: [F',2], frames that the encoder sees before them.
    """
    if not len(frames):
        return None
    frame, place = unit_places(frames)
    units = np.arange(len(frame)) + before.prod(axis=1).sum()
    return TokenLayout(
        patches=units[:, None] * merge**2 + np.arange(merge**2),
        grid=(place / frames[frame]).astype(np.float32),
        group=frame + len(before),
        tables={"visual_rows": units},
    )
