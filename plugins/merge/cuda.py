"""ClusterMergePlan by the CUDA kernels: no value is read back."""

import torch

from vitcop.plugins.checks import check_fraction, check_shape, check_visual_index_shape
from vitcop.plugins.cuda import library, tensors
from vitcop.plugins.merge.definition import cluster_bound
from vitcop.plugins.spec import keep_count


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
    name = "cluster_merge_plan"
    batch, num_positions = sequence.shape[:2]
    check_visual_index_shape(name, visual_index, batch)
    num_visual = visual_index.shape[1]
    check_shape(name, "scores", scores, (batch, num_visual), "B,V")
    check_shape(name, "labels", labels, (batch, num_visual), "B,V")
    check_fraction(name, "clusters", (clusters_num, clusters_den))
    check_fraction(name, "keep", (keep_num, keep_den))
    scores, visual_index, labels = tensors.readable(scores), visual_index.contiguous(), labels.long().contiguous()
    num_clusters = cluster_bound(num_visual, (clusters_num, clusters_den))
    num_groups = keep_count(num_visual, (keep_num, keep_den))
    outputs = tensors.empty_selection(visual_index, num_positions, num_groups)
    assignment_BRV = visual_index.new_empty((batch, num_groups, num_visual), dtype=torch.float32)
    sizes = (num_visual, num_clusters, num_groups)
    scratch = library.workspace("vitcop_cluster_merge_plan", batch, *sizes, device=visual_index.device)
    library.call(
        "vitcop_cluster_merge_plan", scores, library.DTYPES[scores.dtype], labels, visual_index, 64, *outputs,
        assignment_BRV, batch, num_positions, *sizes, mean, scratch, device=visual_index.device,
    )  # fmt: skip
    return *outputs, assignment_BRV
