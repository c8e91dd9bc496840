"""Clusters and merge groups of one image as a first implementation has them: what `selection.py` compares with.

All differences of all pairs at once ([K,K,D] in memory), Python loops over tokens and clusters, one image at a time.
The rules, and on input without ties the results, are those of `vitcop.plugins.ops`.
"""

import math

import torch


def clusters(features_KD: torch.Tensor, positions_K2: torch.Tensor, num_centers: int, cutoff: float, radius: float):
    """Density-peak labels, int64 [K]."""
    num_tokens = len(features_KD)
    distance_KK = (features_KD.unsqueeze(1) - features_KD.unsqueeze(0)).norm(dim=2)
    apart_KK = (positions_K2.unsqueeze(1) - positions_K2.unsqueeze(0)).norm(dim=2)
    density_K = torch.exp(-((distance_KK / cutoff) ** 2)).sum(dim=1)
    gap_K, parent_K = torch.full((num_tokens,), math.inf), torch.full((num_tokens,), -1)
    for token in range(num_tokens):
        denser = ((density_K > density_K[token]) & (apart_KK[token] <= radius)).nonzero().flatten()
        if len(denser):
            gap_K[token], nearest = distance_KK[token][denser].min(dim=0)
            parent_K[token] = denser[nearest]
    peak_K = torch.where(gap_K.isinf(), 1e30 * density_K, density_K * gap_K)
    centers = peak_K.topk(num_centers).indices.sort().values
    label_K = torch.full((num_tokens,), -1)
    for label, center in enumerate(centers.tolist()):
        label_K[center] = label
    for token in density_K.argsort(descending=True).tolist():
        if label_K[token] < 0 and parent_K[token] >= 0:
            label_K[token] = label_K[parent_K[token]]
        elif label_K[token] < 0:
            label_K[token] = distance_KK[token][centers].argmin()
    return label_K


def quotas(sizes: list[int], sums: list[float], places: int) -> list[int]:
    """Shares of `places` in proportion to size - 1, made to add up one by one."""
    total = max(sum(size - 1 for size in sizes), 1)
    shares = [min(round(places * (size - 1) / total), size - 1) for size in sizes]
    ascending = sorted(range(len(sizes)), key=lambda cluster: sums[cluster])
    while sum(shares) < places:
        shares[next(c for c in ascending if shares[c] < sizes[c] - 1)] += 1
    while sum(shares) > places:
        shares[next(c for c in reversed(ascending) if shares[c] > 0)] -= 1
    return shares


def merge_groups(scores_K: torch.Tensor, labels_K: torch.Tensor, num_clusters: int, num_groups: int) -> torch.Tensor:
    """Assignment fp32 [R,K] of a merge by sum, for no more clusters than groups."""
    members = [(labels_K == cluster).nonzero().flatten() for cluster in range(num_clusters)]
    sums = [scores_K[cluster].double().sum().item() for cluster in members]
    shares = quotas([len(cluster) for cluster in members], sums, num_groups - num_clusters)
    groups = []
    for cluster, share in zip(members, shares, strict=True):
        by_norm = cluster[scores_K[cluster].argsort()]
        groups += [(by_norm[i : i + 1], 0.0) for i in range(share)]
        groups.append((by_norm[share:].sort().values, 1.0))
    groups.sort(key=lambda group: group[0][len(group[0]) // 2].item())
    assignment_RK = torch.zeros(num_groups, len(scores_K))
    for row, (group, more) in enumerate(groups):
        assignment_RK[row, group] = 1.0 / len(group)
        assignment_RK[row, group[len(group) // 2]] += more
    return assignment_RK
