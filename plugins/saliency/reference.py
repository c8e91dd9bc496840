"""Torch reference of VisionSaliency."""

import torch

from vitcop.plugins.checks import check_finite, check_rank, check_shape


def vision_saliency(q_cls: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of the class token to each patch, summed over heads: fp32 [B,N]."""
    check_rank("vision_saliency", "keys", keys, "B,Nh,1+N,D")
    batch, num_heads, _, head_dim = keys.shape
    check_shape("vision_saliency", "q_cls", q_cls, (batch, num_heads, head_dim), "B,Nh,D")
    check_finite("vision_saliency", "q_cls", q_cls)
    check_finite("vision_saliency", "keys", keys)
    logits_BhT = torch.matmul(keys.float(), q_cls.float().unsqueeze(-1)).squeeze(-1) * scale
    check_finite("vision_saliency", "the attention logits of the class token", logits_BhT)
    return logits_BhT.softmax(dim=-1)[..., 1:].sum(dim=1)
