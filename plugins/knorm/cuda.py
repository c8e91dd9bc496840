"""KNormScores and KNormSelect by the CUDA kernels.

No value is read back, since that would mean waiting for the device: only what shapes and types show is refused.
"""

import torch

from vitcop.plugins.checks import check_fraction, check_rank, check_visual_index_shape
from vitcop.plugins.cuda import library, tensors
from vitcop.plugins.spec import keep_count


def knorm_scores(keys: torch.Tensor, visual_index: torch.Tensor, mean_norm: int) -> torch.Tensor:
    """As reference.knorm_scores; norms that are not finite pass through."""
    check_rank("knorm_scores", "keys", keys, "B,Nkv,S,D")
    check_visual_index_shape("knorm_scores", visual_index, keys.shape[0])
    keys, visual_index = tensors.with_dense_rows(keys), visual_index.contiguous()
    batch, num_kv_heads, num_positions, head_dim = keys.shape
    scores_BV = keys.new_empty(visual_index.shape, dtype=torch.float32)
    library.call(
        "vitcop_knorm_scores", keys, library.DTYPES[keys.dtype], *keys.stride()[:3], visual_index, 64, scores_BV,
        batch, num_kv_heads, num_positions, head_dim, visual_index.shape[1], mean_norm, device=keys.device,
    )  # fmt: skip
    return scores_BV


def knorm_select(
    keys: torch.Tensor, visual_index: torch.Tensor, keep_num: int, keep_den: int, largest: int, mean_norm: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As reference.knorm_select; a NaN is the worst score."""
    check_rank("knorm_select", "keys", keys, "B,Nkv,S,D")
    check_visual_index_shape("knorm_select", visual_index, keys.shape[0])
    check_fraction("knorm_select", "keep", (keep_num, keep_den))
    keys, visual_index = tensors.with_dense_rows(keys), visual_index.contiguous()
    batch, num_kv_heads, num_positions, head_dim = keys.shape
    num_visual = visual_index.shape[1]
    num_kept = keep_count(num_visual, (keep_num, keep_den))
    outputs = tensors.empty_selection(visual_index, num_positions, num_kept)
    scratch = library.workspace("vitcop_knorm_select", batch, num_visual, device=keys.device)
    library.call(
        "vitcop_knorm_select", keys, library.DTYPES[keys.dtype], *keys.stride()[:3], visual_index, 64, *outputs,
        batch, num_kv_heads, num_positions, head_dim, num_visual, num_kept, largest, mean_norm, scratch,
        device=keys.device,
    )  # fmt: skip
    return outputs
