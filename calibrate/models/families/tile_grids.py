"""Which grid of tiles an image of some size becomes, and which of its patches show the image."""

from collections.abc import Sequence

import numpy as np


def tile_grid(height: int, width: int, pinpoints: Sequence[Sequence[int]], tile: int) -> tuple[int, int]:
    """(rows, columns) of the pinpoint (height, width) in which most of the image's pixels survive, and of several such
    the smallest; `tile` pixels to a tile's side."""

    def fit(pinpoint: Sequence[int]) -> tuple[int, int]:
        scale = min(pinpoint[1] / width, pinpoint[0] / height)
        return min(int(width * scale) * int(height * scale), width * height), -pinpoint[0] * pinpoint[1]

    best = max(pinpoints, key=fit)
    return best[0] // tile, best[1] // tile


def tile_maps(count: int, side: int) -> np.ndarray:
    """int64 [count,side,side]: the patches of tiles, counted through."""
    return np.arange(count * side**2, dtype=np.int64).reshape(count, side, side)


def grid_map(maps: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows·columns,side,side], tiles row by row -> [rows·side,columns·side], one map."""
    side = maps.shape[-1]
    return maps.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)


def without_padding(whole: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle lines or columns of a map, as far as an image of this size reaches when it is scaled to fill the map
    in the other direction."""
    full_height, full_width = whole.shape
    # Rounded to seven digits before the cut to an integer, as the models do; else some sizes would be off by one.
    if width / height > full_width / full_height:
        padding = (full_height - int(round(height * (full_width / width), 7))) // 2
        return whole[padding : full_height - padding]
    padding = (full_width - int(round(width * (full_height / height), 7))) // 2
    return whole[:, padding : full_width - padding]
