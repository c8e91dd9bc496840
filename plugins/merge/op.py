"""torch.library op of ClusterMergePlan, and the application of a plan to hidden states in plain torch ops."""

import torch

from vitcop.plugins.cuda.library import register
from vitcop.plugins.merge import cuda, reference
from vitcop.plugins.merge.definition import CLUSTER_MERGE_PLAN
from vitcop.plugins.symbolic import symbolic_keep_count
from vitcop.plugins.torch_schema import torch_schema


@torch.library.custom_op("vitcop::cluster_merge_plan", mutates_args=(), schema=torch_schema(CLUSTER_MERGE_PLAN))
def cluster_merge_plan(
    scores: torch.Tensor,
    labels: torch.Tensor,
    visual_index: torch.Tensor,
    sequence: torch.Tensor,
    clusters_num: int,
    clusters_den: int,
    keep_num: int,
    keep_den: int,
    mean: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return reference.cluster_merge_plan(
        scores, labels, visual_index, sequence, clusters_num, clusters_den, keep_num, keep_den, mean
    )


@cluster_merge_plan.register_fake
def _(scores, labels, visual_index, sequence, clusters_num, clusters_den, keep_num, keep_den, mean):
    batch, num_visual = visual_index.shape
    num_groups = symbolic_keep_count(num_visual, (keep_num, keep_den))
    return (
        visual_index.new_empty((batch, sequence.shape[1] - num_visual + num_groups)),
        visual_index.new_empty((batch, num_groups)),
        visual_index.new_empty((batch, num_groups)),
        visual_index.new_empty((batch, num_groups, num_visual), dtype=torch.float32),
    )


register(cluster_merge_plan, cuda.cluster_merge_plan, reference.cluster_merge_plan)


def merge_hidden(
    hidden: torch.Tensor,
    visual_index_before: torch.Tensor,
    kept_positions: torch.Tensor,
    visual_index_after: torch.Tensor,
    assignment: torch.Tensor,
) -> torch.Tensor:
    """Hidden states [B,S,H] under a plan: [B,S-V+R,H] in the same dtype. See `vitcop.plugins.ops.merge_hidden`."""
    rows_B1 = torch.arange(hidden.shape[0], device=hidden.device).unsqueeze(1)
    visual_BVH = hidden[rows_B1, visual_index_before]
    merged_BRH = torch.matmul(assignment, visual_BVH.float()).to(hidden.dtype)
    return hidden[rows_B1, kept_positions].index_put((rows_B1, visual_index_after), merged_BRH)
