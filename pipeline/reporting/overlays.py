"""Kept patches as pictures: what is kept is bright, what was dropped is grey, what was merged shares a colour."""

import base64
import colorsys
import io
from collections.abc import Sequence

import numpy as np

LEAST_SIDE = 240
"""Smallest side of a picture in pixels; smaller images are enlarged by a whole factor, their pixels stay square."""

DROPPED = -1
_GREY, _LINE = 0.72, np.array([1.0, 1.0, 1.0])


def owners_of(stage: str, num_patches: int) -> tuple[np.ndarray, int]:
    """(int [N]: for each patch the token that stands for it, or DROPPED; tokens present) of a stage of verify.json."""
    tokens = stage.split()
    owner = np.full(num_patches, DROPPED)
    for token, patches in enumerate(tokens):
        owner[[int(patch) for patch in patches.split("+")]] = token
    return owner, len(tokens)


def draw_stage(picture: np.ndarray, owner: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The picture under one stage's patches.

    Args:
        picture: fp [h,w,3] in [0, 1], what the model saw.
        owner: int [rows·columns], as `owners_of` gives; where one token owns every patch, the picture is left as it is.
        grid: (rows, columns) of patches.

    Returns uint8 [h',w',3].
    """
    factor = max(1, -(-LEAST_SIDE // min(picture.shape[:2])))
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    if (owner == owner[0]).all() and owner[0] != DROPPED:
        return _bytes(large)
    height, width = large.shape[:2]
    owner_hw = owner.reshape(grid)[np.arange(height) * grid[0] // height][:, np.arange(width) * grid[1] // width]
    sizes = np.bincount(owner[owner != DROPPED], minlength=1)
    luma = large @ np.array([0.299, 0.587, 0.114])
    drawn = np.where((owner_hw == DROPPED)[..., None], (_GREY + 0.16 * (luma - 0.5))[..., None], large)
    for token in np.flatnonzero(sizes > 1):
        inside = owner_hw == token
        drawn[inside] = 0.6 * drawn[inside] + 0.4 * _colour(int(np.flatnonzero(owner == token)[0]))
    edge = np.zeros((height, width), dtype=bool)
    edge[1:] |= owner_hw[1:] != owner_hw[:-1]
    edge[:, 1:] |= owner_hw[:, 1:] != owner_hw[:, :-1]
    drawn[edge] = 0.35 * drawn[edge] + 0.65 * _LINE
    return _bytes(drawn)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _colour(patch: int) -> np.ndarray:
    """The colour of a group, by its first patch: the same at every stage, far from its neighbours' (golden angle)."""
    return np.array(colorsys.hsv_to_rgb((patch * 0.381966) % 1.0, 0.85, 0.95))


def as_seen(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A processor's normalised pixels [3,h,w] back as a picture [h,w,3] in [0, 1]: what the model saw."""
    return np.clip(np.moveaxis(pixels, 0, -1) * np.asarray(std) + np.asarray(mean), 0, 1)


def data_uri(picture: np.ndarray) -> str:
    """A uint8 picture as a PNG in a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
