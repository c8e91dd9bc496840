"""torch.library op of VisionSaliency."""

import torch

from vitcop.plugins.cuda.library import register
from vitcop.plugins.saliency import cuda, reference
from vitcop.plugins.saliency.definition import VISION_SALIENCY
from vitcop.plugins.torch_schema import torch_schema


@torch.library.custom_op("vitcop::vision_saliency", mutates_args=(), schema=torch_schema(VISION_SALIENCY))
def vision_saliency(q_cls: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    return reference.vision_saliency(q_cls, keys, scale)


@vision_saliency.register_fake
def _(q_cls: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    return keys.new_empty((keys.shape[0], keys.shape[2] - 1), dtype=torch.float32)


register(vision_saliency, cuda.vision_saliency, reference.vision_saliency)
