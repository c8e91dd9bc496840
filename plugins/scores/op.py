"""torch.library ops of ScoreSelect, TextQueryScores, UniformScores and RandomScores."""

import torch

from vitcop.plugins.cuda.library import register
from vitcop.plugins.scores import cuda, reference
from vitcop.plugins.scores.definition import RANDOM_SCORES, SCORE_SELECT, TEXT_QUERY_SCORES, UNIFORM_SCORES
from vitcop.plugins.symbolic import symbolic_keep_count
from vitcop.plugins.torch_schema import torch_schema


@torch.library.custom_op("vitcop::score_select", mutates_args=(), schema=torch_schema(SCORE_SELECT))
def score_select(
    scores: torch.Tensor, visual_index: torch.Tensor, sequence: torch.Tensor, keep_num: int, keep_den: int, largest: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return reference.score_select(scores, visual_index, sequence, keep_num, keep_den, largest)


@score_select.register_fake
def _(scores, visual_index, sequence, keep_num, keep_den, largest):
    batch, num_visual = visual_index.shape
    num_kept = symbolic_keep_count(num_visual, (keep_num, keep_den))
    kept_positions = visual_index.new_empty((batch, sequence.shape[1] - num_visual + num_kept))
    return kept_positions, visual_index.new_empty((batch, num_kept)), visual_index.new_empty((batch, num_kept))


@torch.library.custom_op("vitcop::text_query_scores", mutates_args=(), schema=torch_schema(TEXT_QUERY_SCORES))
def text_query_scores(
    q_last: torch.Tensor, keys: torch.Tensor, visual_index: torch.Tensor, attention_mask: torch.Tensor, scale: float
) -> torch.Tensor:
    return reference.text_query_scores(q_last, keys, visual_index, attention_mask, scale)


@text_query_scores.register_fake
def _(q_last, keys, visual_index, attention_mask, scale):
    return visual_index.new_empty(visual_index.shape, dtype=torch.float32)


@torch.library.custom_op("vitcop::uniform_scores", mutates_args=(), schema=torch_schema(UNIFORM_SCORES))
def uniform_scores(visual_index: torch.Tensor, keep_num: int, keep_den: int) -> torch.Tensor:
    return reference.uniform_scores(visual_index, keep_num, keep_den)


@uniform_scores.register_fake
def _(visual_index, keep_num, keep_den):
    return visual_index.new_empty(visual_index.shape, dtype=torch.float32)


@torch.library.custom_op("vitcop::random_scores", mutates_args=(), schema=torch_schema(RANDOM_SCORES))
def random_scores(visual_positions: torch.Tensor, seed: int) -> torch.Tensor:
    return reference.random_scores(visual_positions, seed)


@random_scores.register_fake
def _(visual_positions, seed):
    return visual_positions.new_empty(visual_positions.shape, dtype=torch.float32)


register(score_select, cuda.score_select, reference.score_select)
register(text_query_scores, cuda.text_query_scores, reference.text_query_scores)
register(uniform_scores, cuda.uniform_scores, reference.uniform_scores)
register(random_scores, cuda.random_scores, reference.random_scores)
