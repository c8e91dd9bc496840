"""Images as servers hand them on, as Pillow images, which the image processor of the model takes."""

from typing import Any

import numpy as np
from PIL import Image


def picture_of(image: Any) -> Image.Image:
    """A Pillow image in RGB.

    Args:
        image: a Pillow image; uint8 [h,w,3]; or float [3,h,w] in [0, 1], a NumPy array or a torch tensor.

    Raises ValueError for anything else.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if hasattr(image, "detach"):  # a torch tensor, without importing torch
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] == 3:
        return Image.fromarray(array)
    if array.ndim == 3 and array.dtype.kind == "f" and array.shape[0] == 3 and 0 <= array.min() <= array.max() <= 1:
        # The inverse of what loaders do: 255 levels, so rounding gives them back exactly.
        return Image.fromarray(np.rint(array.transpose(1, 2, 0) * 255).astype(np.uint8))
    raise ValueError(
        f"an image of {array.dtype} {list(array.shape)}: expected a Pillow image, uint8 [h,w,3], float [3,h,w] in 0..1"
    )
