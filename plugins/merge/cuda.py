"""ClusterMergePlan by the CUDA kernels: no value is read back."""

import torch

from vitcop.plugins.cuda import library, tensors
from vitcop.plugins.merge.reference import check_inputs


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
    """As reference.cluster_merge_plan; a NaN is the worst score, a label out of range the nearest one in range."""
    clusters, keep = (clusters_num, clusters_den), (keep_num, keep_den)
    num_clusters, num_groups = check_inputs(scores, labels, visual_index, sequence, clusters, keep)
    batch, num_positions = sequence.shape[:2]
    num_visual = visual_index.shape[1]
    scores, visual_index, labels = tensors.readable(scores), visual_index.contiguous(), labels.long().contiguous()
    outputs = tensors.empty_selection(visual_index, num_positions, num_groups)
    assignment_BRV = visual_index.new_empty((batch, num_groups, num_visual), dtype=torch.float32)
    sizes = (num_visual, num_clusters, num_groups)
    scratch = library.workspace("vitcop_cluster_merge_plan", batch, *sizes, device=visual_index.device)
    library.call(
        "vitcop_cluster_merge_plan", scores, library.DTYPES[scores.dtype], labels, visual_index, 64, *outputs,
        assignment_BRV, batch, num_positions, *sizes, mean, scratch, device=visual_index.device,
    )  # fmt: skip
    return *outputs, assignment_BRV
