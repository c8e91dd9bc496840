"""Torch references of ScoreSelect, TextQueryScores, UniformScores and RandomScores."""

import torch

from vitcop.plugins import selection
from vitcop.plugins.checks import check_finite, check_fraction, check_rank, check_shape, check_visual_index
from vitcop.plugins.errors import InputError
from vitcop.plugins.scores import hash as score_hash
from vitcop.plugins.spec import keep_count


def score_select(
    scores: torch.Tensor, visual_index: torch.Tensor, sequence: torch.Tensor, keep_num: int, keep_den: int, largest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(kept_positions [B,S-V+K], visual_index [B,K], kept_visual [B,K]), all int64."""
    batch, num_positions = sequence.shape[:2]
    check_visual_index("score_select", visual_index, batch, num_positions)
    check_shape("score_select", "scores", scores, tuple(visual_index.shape), "B,V")
    check_fraction("score_select", "keep", (keep_num, keep_den))
    check_finite("score_select", "scores", scores)
    kept_visual = selection.pick(scores, (keep_num, keep_den), bool(largest))
    kept_positions, new_visual_index = selection.after_drop(kept_visual, visual_index, num_positions)
    return kept_positions, new_visual_index, kept_visual


def check_query(q_last: torch.Tensor, keys: torch.Tensor, attention_mask: torch.Tensor) -> None:
    """The shapes of one query row against keys."""
    name = "text_query_scores"
    check_rank(name, "keys", keys, "B,Nkv,S,D")
    check_rank(name, "q_last", q_last, "B,Nh,D")
    batch, num_kv_heads, num_positions, head_dim = keys.shape
    num_heads = q_last.shape[1]
    check_shape(name, "q_last", q_last, (batch, num_heads, head_dim), "B,Nh,D")
    check_shape(name, "attention_mask", attention_mask, (batch, num_positions), "B,S")
    if num_heads % num_kv_heads:
        raise InputError(f"{name}: {num_heads} query heads cannot share {num_kv_heads} key-value heads evenly")


def text_query_scores(
    q_last: torch.Tensor, keys: torch.Tensor, visual_index: torch.Tensor, attention_mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of one query to each visual token, softmax without padding, summed over query heads: fp32 [B,V]."""
    name = "text_query_scores"
    check_query(q_last, keys, attention_mask)
    batch, num_kv_heads, num_positions, head_dim = keys.shape
    num_heads = q_last.shape[1]
    check_visual_index(name, visual_index, batch, num_positions)
    q_BkDG = q_last.float().reshape(batch, num_kv_heads, num_heads // num_kv_heads, head_dim).transpose(2, 3)
    logits_BkSG = torch.matmul(keys.float(), q_BkDG) * scale
    padding_B1S1 = (attention_mask == 0).view(batch, 1, num_positions, 1)
    check_finite(name, "the attention logits of the last query", logits_BkSG.masked_fill(padding_B1S1, 0.0))
    attention_BkSG = logits_BkSG.masked_fill(padding_B1S1, torch.finfo(torch.float32).min).softmax(dim=2)
    return attention_BkSG.sum(dim=(1, 3)).gather(1, visual_index)


def uniform_scores(visual_index: torch.Tensor, keep_num: int, keep_den: int) -> torch.Tensor:
    """1.0 at exactly K of the V tokens, evenly spread and centred, else 0.0: fp32 [B,V]."""
    check_rank("uniform_scores", "visual_index", visual_index, "B,V")
    check_fraction("uniform_scores", "keep", (keep_num, keep_den))
    batch, num_visual = visual_index.shape
    num_kept = keep_count(num_visual, (keep_num, keep_den))
    # (2jK + V) // 2V is jK/V rounded half up: it climbs from 0 to K as j goes from 0 to V.
    edges = torch.arange(num_visual + 1, device=visual_index.device) * (2 * num_kept) + num_visual
    steps = torch.div(edges, max(2 * num_visual, 1), rounding_mode="floor").diff()
    return steps.float().repeat(batch, 1)


def random_scores(visual_positions: torch.Tensor, seed: int) -> torch.Tensor:
    """A hash of (seed, original position): fp32 [B,V], multiples of 2^-24 in [0, 1), the same in every runtime."""
    check_rank("random_scores", "visual_positions", visual_positions, "B,V")
    word = score_hash.hash_word(visual_positions.long(), seed)
    return (word // score_hash.SCORE_SHIFT).float() * score_hash.SCORE_STEP
