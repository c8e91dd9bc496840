"""VisionSaliency by the CUDA kernels: the scores of a query row, for every position but the class token's."""

import torch

from vitcop.plugins.checks import check_rank, check_shape
from vitcop.plugins.scores.cuda import query_scores


def vision_saliency(q_cls: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """As reference.vision_saliency; values that are not finite pass through."""
    check_rank("vision_saliency", "keys", keys, "B,Nh,1+N,D")
    batch, num_heads, num_positions, head_dim = keys.shape
    check_shape("vision_saliency", "q_cls", q_cls, (batch, num_heads, head_dim), "B,Nh,D")
    return query_scores(q_cls, keys, None, None, num_positions - 1, scale)
