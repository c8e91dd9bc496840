"""Images and videos as the patches that Qwen-VL models read, without torchvision: transformers' video processors need
it, its image processors do not.

Shape letters: P patches, X = channels·temporal·p·p values of a patch.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitcop.calibrate.models.processor import Processor

FPS = 24
"""Frames a second of a video of which nothing but its frames is known: what transformers' processors take it for."""


def image_patches(processor: "Processor", images: "list[Image]", **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels fp32 [P,X], unit by unit, and int64 [n,3], (temporal, height, width) of each image in patches."""
    found = processor.image_processor(images=images, **settings)
    return np.asarray(found["pixel_values"], np.float32), np.asarray(found["image_grid_thw"], np.int64)


def video_patches(
    processor: "Processor", frames: "list[Image]", *, channels: int, temporal: int, size: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same of one video, [P,X] and [1,3]: every `temporal` frames become one temporal patch.

    Args:
        frames: all are used; the last one is repeated to fill its patch.
        size: least and greatest number of pixels of a frame, "shortest_edge" and "longest_edge".
    """
    pixels, grids = image_patches(processor, frames, size=size)
    if (grids != grids[0]).any():
        raise InputError("the frames of a video differ in size: give frames of one size")
    # The image processor fills a temporal patch with the same image; slice j of it is what frame j gives.
    stills = pixels.reshape(len(frames), int(grids[0].prod()), channels, temporal, -1)
    stills = np.concatenate([stills, *[stills[-1:]] * (-len(frames) % temporal)])
    patches = np.stack([stills[j::temporal, :, :, j] for j in range(temporal)], axis=3)
    return patches.reshape(-1, pixels.shape[1]), grids[:1] * (len(patches), 1, 1)


def frame_size(processor: "Processor") -> dict[str, int]:
    """Least and greatest number of pixels by the video settings of the model folder, else by those for images."""
    settings = processor.video_settings
    size = settings.get("size") or processor.image_processor.size
    bounds = {"shortest_edge": settings.get("min_pixels"), "longest_edge": settings.get("max_pixels")}
    return {name: int(size[name]) if bound is None else bound for name, bound in bounds.items()}
