"""torch.library ops of KNormScores and KNormSelect."""

import torch

from vitcop.plugins.cuda.library import register
from vitcop.plugins.knorm import cuda, reference
from vitcop.plugins.knorm.definition import KNORM_SCORES, KNORM_SELECT
from vitcop.plugins.symbolic import symbolic_keep_count
from vitcop.plugins.torch_schema import torch_schema


@torch.library.custom_op("vitcop::knorm_scores", mutates_args=(), schema=torch_schema(KNORM_SCORES))
def knorm_scores(keys: torch.Tensor, visual_index: torch.Tensor, mean_norm: int) -> torch.Tensor:
    return reference.knorm_scores(keys, visual_index, mean_norm)


@knorm_scores.register_fake
def _(keys: torch.Tensor, visual_index: torch.Tensor, mean_norm: int) -> torch.Tensor:
    return visual_index.new_empty(visual_index.shape, dtype=torch.float32)


@torch.library.custom_op("vitcop::knorm_select", mutates_args=(), schema=torch_schema(KNORM_SELECT))
def knorm_select(
    keys: torch.Tensor, visual_index: torch.Tensor, keep_num: int, keep_den: int, largest: int, mean_norm: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return reference.knorm_select(keys, visual_index, keep_num, keep_den, largest, mean_norm)


@knorm_select.register_fake
def _(keys, visual_index, keep_num, keep_den, largest, mean_norm):
    batch, num_visual = visual_index.shape
    num_kept = symbolic_keep_count(num_visual, (keep_num, keep_den))
    kept_positions = visual_index.new_empty((batch, keys.shape[2] - num_visual + num_kept))
    return kept_positions, visual_index.new_empty((batch, num_kept)), visual_index.new_empty((batch, num_kept))


register(knorm_scores, cuda.knorm_scores, reference.knorm_scores)
register(knorm_select, cuda.knorm_select, reference.knorm_select)
