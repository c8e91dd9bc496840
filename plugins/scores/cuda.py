"""ScoreSelect, TextQueryScores, UniformScores and RandomScores by the CUDA kernels: no value is read back."""

import torch

from vitcop.plugins.checks import check_fraction, check_rank, check_shape, check_visual_index_shape
from vitcop.plugins.cuda import library, tensors
from vitcop.plugins.scores.reference import check_query
from vitcop.plugins.spec import keep_count


def score_select(
    scores: torch.Tensor, visual_index: torch.Tensor, sequence: torch.Tensor, keep_num: int, keep_den: int, largest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As reference.score_select; a NaN is the worst score."""
    batch, num_positions = sequence.shape[:2]
    check_visual_index_shape("score_select", visual_index, batch)
    check_shape("score_select", "scores", scores, tuple(visual_index.shape), "B,V")
    check_fraction("score_select", "keep", (keep_num, keep_den))
    scores, visual_index = tensors.readable(scores), visual_index.contiguous()
    num_visual = visual_index.shape[1]
    num_kept = keep_count(num_visual, (keep_num, keep_den))
    outputs = tensors.empty_selection(visual_index, num_positions, num_kept)
    scratch = library.workspace("vitcop_score_select", batch, num_visual, device=visual_index.device)
    library.call(
        "vitcop_score_select", scores, library.DTYPES[scores.dtype], visual_index, 64, *outputs,
        batch, num_positions, num_visual, num_kept, largest, scratch, device=visual_index.device,
    )  # fmt: skip
    return outputs


def query_scores(
    queries: torch.Tensor,
    keys: torch.Tensor,
    attention_mask: torch.Tensor | None,
    visual_index: torch.Tensor | None,
    num_visual: int,
    scale: float,
) -> torch.Tensor:
    """Softmax of each head's query [B,Nh,D] over keys [B,Nkv,S,D], summed over heads, at the visual tokens: fp32 [B,V].

    visual_index None: the last num_visual positions.
    """
    if queries.dtype != keys.dtype:
        queries, keys = queries.float(), keys.float()
    keys = tensors.with_dense_rows(keys)
    queries = queries.to(keys.dtype).contiguous()
    batch, num_kv_heads, num_positions, head_dim = keys.shape
    num_heads = queries.shape[1]
    scores_BV = keys.new_empty((batch, num_visual), dtype=torch.float32)
    scratch = library.workspace("vitcop_query_scores", batch, num_heads, num_positions, device=keys.device)
    library.call(
        "vitcop_query_scores", queries, keys, library.DTYPES[keys.dtype], *keys.stride()[:3], attention_mask,
        visual_index, 64, num_positions - num_visual, scores_BV, batch, num_heads, num_kv_heads, num_positions,
        head_dim, num_visual, float(scale), scratch, device=keys.device,
    )  # fmt: skip
    return scores_BV


def text_query_scores(
    q_last: torch.Tensor, keys: torch.Tensor, visual_index: torch.Tensor, attention_mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """As reference.text_query_scores; scores that are not finite pass through."""
    check_query(q_last, keys, attention_mask)
    check_visual_index_shape("text_query_scores", visual_index, keys.shape[0])
    mask_BS = attention_mask.to(torch.int64).contiguous()
    return query_scores(q_last, keys, mask_BS, visual_index.contiguous(), visual_index.shape[1], scale)


def uniform_scores(visual_index: torch.Tensor, keep_num: int, keep_den: int) -> torch.Tensor:
    """As reference.uniform_scores."""
    check_rank("uniform_scores", "visual_index", visual_index, "B,V")
    check_fraction("uniform_scores", "keep", (keep_num, keep_den))
    batch, num_visual = visual_index.shape
    scores_BV = visual_index.new_empty((batch, num_visual), dtype=torch.float32)
    num_kept = keep_count(num_visual, (keep_num, keep_den))
    library.call("vitcop_uniform_scores", scores_BV, batch, num_visual, num_kept, device=visual_index.device)
    return scores_BV


def random_scores(visual_positions: torch.Tensor, seed: int) -> torch.Tensor:
    """As reference.random_scores."""
    check_rank("random_scores", "visual_positions", visual_positions, "B,V")
    positions_BV = visual_positions.to(torch.int64).contiguous()
    scores_BV = positions_BV.new_empty(positions_BV.shape, dtype=torch.float32)
    library.call(
        "vitcop_random_scores", positions_BV, 64, scores_BV, *positions_BV.shape, seed, device=scores_BV.device
    )
    return scores_BV
