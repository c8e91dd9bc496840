"""Frames of a video as square tiles, through the image processor.

transformers' video processors need torchvision. Theirs is a plain chain for each frame: resize (the short side to the
tile, then cut the middle out; or straight to the tile), rescale, normalise. Here PIL makes the square, and the image
processor does the rest as for any image that needs no further resizing.
"""

from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.tiles import stacked
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitcop.calibrate.models.processor import Processor

_SHARED = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Settings that mean the same to video and image processors."""


def video_pixels(processor: "Processor", videos: "list[list[Image]]", side: int, *, crop: bool) -> np.ndarray:
    """fp32 [videos,F,3,side,side]; all videos have F frames.

    Args:
        crop: whether the middle of a frame is cut out, where the folder's video settings do not say.
    """
    if len({len(frames) for frames in videos}) > 1:
        counts = sorted({len(frames) for frames in videos})
        raise InputError(f"the videos of one prompt have {counts} frames: give them the same number")
    told = {name: value for name, value in processor.video_settings.items() if value is not None}
    resample = told.get("resample", processor.image_processor.resample)
    crop = told.get("do_center_crop", crop)
    squares = [_square(frame, side, resample, crop) for frames in videos for frame in frames]
    # With one pinpoint of the tile's own size an image becomes two tiles, the first of which is the whole image.
    tiles = processor.image_processor(
        images=squares,
        image_grid_pinpoints=[[side, side]],
        do_pad=False,
        **{name: told[name] for name in _SHARED if name in told},
    )["pixel_values"]
    pixels = stacked([each[0] for each in tiles])
    return pixels.reshape(len(videos), -1, *pixels.shape[1:])


def _square(frame: "Image", side: int, resample: int, crop: bool) -> "Image":
    frame = frame.convert("RGB")
    if not crop:
        return frame.resize((side, side), resample)
    short = min(frame.size)
    width, height = (int(side * size / short) for size in frame.size)
    left, top = (width - side) // 2, (height - side) // 2
    return frame.resize((width, height), resample).crop((left, top, left + side, top + side))
