"""Torch references of KNormScores and KNormSelect."""

import torch

from vitcop.plugins import selection
from vitcop.plugins.checks import check_finite, check_fraction, check_rank, check_visual_index


def knorm_scores(keys: torch.Tensor, visual_index: torch.Tensor, mean_norm: int) -> torch.Tensor:
    """Norm of the mean key over KV heads (mean_norm 0) or mean of the heads' norms (1): fp32 [B,V]."""
    check_rank("knorm_scores", "keys", keys, "B,Nkv,S,D")
    check_visual_index("knorm_scores", visual_index, keys.shape[0], keys.shape[2])
    if mean_norm:
        norms_BS = keys.float().square().sum(dim=3).sqrt().mean(dim=1)
    else:
        norms_BS = keys.float().mean(dim=1).square().sum(dim=2).sqrt()
    scores_BV = norms_BS.gather(1, visual_index)
    check_finite("knorm_scores", "the key norms of the visual tokens", scores_BV)
    return scores_BV


def knorm_select(
    keys: torch.Tensor, visual_index: torch.Tensor, keep_num: int, keep_den: int, largest: int, mean_norm: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(kept_positions [B,S-V+K], visual_index [B,K], kept_visual [B,K]), all int64."""
    check_fraction("knorm_select", "keep", (keep_num, keep_den))
    kept_visual = selection.pick(knorm_scores(keys, visual_index, mean_norm), (keep_num, keep_den), bool(largest))
    kept_positions, new_visual_index = selection.after_drop(kept_visual, visual_index, keys.shape[2])
    return kept_positions, new_visual_index, kept_visual
