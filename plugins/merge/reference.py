"""Torch reference of ClusterMergePlan: sorts and sums over the whole batch, no loop over tokens, clusters or rows."""

import math

import torch

from vitcop.plugins import selection
from vitcop.plugins.checks import (
    check_finite,
    check_fraction,
    check_shape,
    check_visual_index,
    check_visual_index_shape,
)
from vitcop.plugins.errors import InputError
from vitcop.plugins.merge.definition import cluster_bound
from vitcop.plugins.spec import Fraction, keep_count


def _order(keys: torch.Tensor) -> torch.Tensor:
    """Indices that sort each row ascending, equal keys in order of index. Of a permutation: its inverse."""
    return keys.sort(dim=1, stable=True).indices


def share_out(sizes_BC: torch.Tensor, norm_sums_BC: torch.Tensor, num_places_B1: torch.Tensor) -> torch.Tensor:
    """How many tokens each cluster keeps by themselves, int64 [B,C], adding up to `num_places` in each row.

    In proportion to size-1, rounded half to even. A rounding error is at most 1/2 a cluster, so at least twice as many
    clusters were rounded down as places are missing (and each of these has a token left), and likewise for an excess:
    one round of giving or taking one each is always enough.
    """
    room_BC = (sizes_BC - 1).clamp_min(0)
    total_B1 = room_BC.sum(dim=1, keepdim=True).clamp_min(1)
    product_BC = room_BC * num_places_B1
    quota_BC = product_BC // total_B1
    twice_rest_BC = 2 * (product_BC - quota_BC * total_B1)
    quota_BC = quota_BC + ((twice_rest_BC > total_B1) | ((twice_rest_BC == total_B1) & (quota_BC % 2 == 1))).long()
    missing_B1 = num_places_B1 - quota_BC.sum(dim=1, keepdim=True)

    def first_of(order_BC: torch.Tensor, eligible_BC: torch.Tensor, count_B1: torch.Tensor) -> torch.Tensor:
        eligible_sorted = eligible_BC.long().gather(1, order_BC)
        chosen_sorted = eligible_sorted * (eligible_sorted.cumsum(1) <= count_B1).long()
        return chosen_sorted.gather(1, _order(order_BC))

    given_BC = first_of(_order(norm_sums_BC), quota_BC < room_BC, missing_B1)
    taken_BC = first_of(_order(-norm_sums_BC), quota_BC > 0, -missing_B1)
    return quota_BC + given_BC - taken_BC


def group_tokens(
    scores_BV: torch.Tensor, labels_BV: torch.Tensor, num_clusters: int, num_groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(group of each token, int64 [B,V]: 0..R-1, every group with at least one token; bool [B,V], kept by quota).

    Norm sums are taken in fp64, where sums of fp32 norms are exact in practice: so they do not depend on the order of
    addition, and equal sums compare as equal in every runtime. An empty cluster is as if it were not there.
    """
    member_BCV = labels_BV.unsqueeze(1) == torch.arange(num_clusters, device=labels_BV.device).view(1, -1, 1)
    sizes_BC = member_BCV.sum(dim=2)
    scores_BV = scores_BV.float()
    sums_BC = torch.where(member_BCV, scores_BV.double().unsqueeze(1), 0.0).sum(dim=2)
    sums_BC = sums_BC.masked_fill(sizes_BC == 0, math.inf)
    num_present_B1 = (sizes_BC > 0).sum(dim=1, keepdim=True)
    quota_BC = share_out(sizes_BC, sums_BC, (num_groups - num_present_B1).clamp_min(0))

    # Tokens sorted by cluster, within a cluster by score, then index: the first `quota` of each cluster stay alone.
    by_score_BV = _order(scores_BV)
    by_cluster_BV = by_score_BV.gather(1, _order(labels_BV.gather(1, by_score_BV)))
    start_BC = sizes_BC.cumsum(1) - sizes_BC
    rank_BV = _order(by_cluster_BV) - start_BC.gather(1, labels_BV)
    alone_BV = rank_BV < quota_BC.gather(1, labels_BV)

    # The others join their cluster's group, numbered by rising norm sum. With more clusters than groups the last is
    # shared.
    cluster_rank_BC = _order(_order(sums_BC))
    cluster_group_BV = cluster_rank_BC.gather(1, labels_BV).clamp_max(num_groups - 1)
    alone_group_BV = num_present_B1 + alone_BV.long().cumsum(1) - 1
    return torch.where(alone_BV, alone_group_BV, cluster_group_BV), alone_BV


def middle_members(group_BV: torch.Tensor, num_groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(kept_visual [B,R] ascending, the group of each [B,R], that group's size [B,R])."""
    num_visual = group_BV.shape[1]
    by_group_BV = _order(group_BV)
    sorted_BV = group_BV.gather(1, by_group_BV)
    before_BV = torch.nn.functional.pad(sorted_BV, (1, 0), value=-1)[:, :num_visual]
    place_V = torch.arange(num_visual, device=group_BV.device)
    start_BR = (place_V + (sorted_BV == before_BV).long() * num_visual).sort(dim=1).values[:, :num_groups]
    size_BR = torch.nn.functional.pad(start_BR, (0, 1), value=num_visual)[:, 1:] - start_BR
    middle_BR = by_group_BV.gather(1, start_BR + size_BR // 2)
    kept_visual_BR, row_group_BR = middle_BR.sort(dim=1)
    return kept_visual_BR, row_group_BR, size_BR.gather(1, row_group_BR)


def check_inputs(
    scores: torch.Tensor,
    labels: torch.Tensor,
    visual_index: torch.Tensor,
    sequence: torch.Tensor,
    clusters: Fraction,
    keep: Fraction,
) -> tuple[int, int]:
    """What shapes and attributes alone show; no value of a tensor is read. Returns (num_clusters, num_groups)."""
    name = "cluster_merge_plan"
    batch, num_visual = sequence.shape[0], visual_index.shape[-1]
    check_visual_index_shape(name, visual_index, batch)
    check_shape(name, "scores", scores, (batch, num_visual), "B,V")
    check_shape(name, "labels", labels, (batch, num_visual), "B,V")
    check_fraction(name, "clusters", clusters)
    check_fraction(name, "keep", keep)
    return cluster_bound(num_visual, clusters), keep_count(num_visual, keep)


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
    """(kept_positions [B,S-V+R], visual_index [B,R], kept_visual [B,R], assignment fp32 [B,R,V])."""
    name = "cluster_merge_plan"
    clusters, keep = (clusters_num, clusters_den), (keep_num, keep_den)
    num_clusters, num_groups = check_inputs(scores, labels, visual_index, sequence, clusters, keep)
    num_positions = sequence.shape[1]
    check_visual_index(name, visual_index, sequence.shape[0], num_positions)
    check_finite(name, "scores", scores)
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_clusters):
        raise InputError(
            f"{name}: labels must lie in 0..{num_clusters - 1} ({clusters_num}/{clusters_den} of {labels.shape[1]} "
            f"tokens), found {int(labels.min())}..{int(labels.max())}; give a fraction that covers the labels"
        )
    group_BV, alone_BV = group_tokens(scores, labels, num_clusters, num_groups)
    kept_visual, row_group_BR, size_BR = middle_members(group_BV, num_groups)
    member_BRV = group_BV.unsqueeze(1) == row_group_BR.unsqueeze(2)
    assignment = member_BRV.float() / size_BR.float().unsqueeze(2)
    if not mean:
        # The middle member counts once more, but a token that its cluster keeps stays as it is.
        more_BR = (~alone_BV).gather(1, kept_visual).to(assignment.dtype)
        assignment = assignment.scatter_add(2, kept_visual.unsqueeze(2), more_BR.unsqueeze(2))
    kept_positions, new_visual_index = selection.after_drop(kept_visual, visual_index, num_positions)
    return kept_positions, new_visual_index, kept_visual, assignment
