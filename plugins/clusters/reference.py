"""Torch reference of DensityPeakClusters: every step over the whole batch, in O(K²) memory whatever D is."""

import math

import torch

from vitcop.plugins.checks import check_finite, check_fraction, check_rank, check_shape
from vitcop.plugins.clusters.definition import LEAST_SQUARED_CUTOFF, QUANTILE_STEPS
from vitcop.plugins.errors import InputError
from vitcop.plugins.merge.definition import cluster_bound


def squared_distances(features_BKD: torch.Tensor) -> torch.Tensor:
    """‖a-b‖² [B,K,K] in fp32 by one product of the centred features, at least 0 and exactly 0 on the diagonal.

    Subtracting the mean first keeps |a|² + |b|² - 2ab from cancelling when all tokens share a large offset.
    """
    centred_BKD = features_BKD.float() - features_BKD.float().mean(dim=1, keepdim=True)
    norms_BK = centred_BKD.square().sum(dim=2)
    products_BKK = torch.matmul(centred_BKD, centred_BKD.transpose(1, 2))
    squared_BKK = ((norms_BK.unsqueeze(2) + norms_BK.unsqueeze(1)) - 2.0 * products_BKK).clamp_min(0.0)
    same_KK = torch.eye(features_BKD.shape[1], dtype=torch.bool, device=features_BKD.device)
    return squared_BKK.masked_fill(same_KK, 0.0)


def quantile_rank(num_tokens: int, quantile: float) -> int:
    """Which entry (from 0) of a row's K² sorted squared distances is the quantile.

    The quantile is the r-th smallest (nearest rank, r = max(1, ⌈q·P⌉)) of the P = K·(K-1)/2 distances between two
    different tokens. Among the K² entries the K zeros of the diagonal come first, then each pair twice.
    """
    num_pairs = num_tokens * (num_tokens - 1) // 2
    rank = max(1, -(-round(quantile * QUANTILE_STEPS) * num_pairs // QUANTILE_STEPS))
    return min(num_tokens + 2 * min(rank, num_pairs) - 2, num_tokens * num_tokens - 1) if num_pairs else 0


def nearest_denser(
    squared_BKK: torch.Tensor, density_BK: torch.Tensor, visible_BKK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(δ² [B,K], the nearest denser visible token [B,K]); where there is none, (∞, the token itself)."""
    index_K = torch.arange(density_BK.shape[1], device=density_BK.device)
    own, other = density_BK.unsqueeze(2), density_BK.unsqueeze(1)
    denser_BKK = (other > own) | ((other == own) & (index_K < index_K.unsqueeze(1)))
    to_denser_BKK = squared_BKK.masked_fill(~(denser_BKK & visible_BKK), math.inf)
    nearest_BK = to_denser_BKK.argmin(dim=2)  # the first of equals
    gap_BK = to_denser_BKK.gather(2, nearest_BK.unsqueeze(2)).squeeze(2)
    return gap_BK, torch.where(gap_BK.isinf(), index_K, nearest_BK)


def density_peak_clusters(
    features: torch.Tensor,
    positions: torch.Tensor,
    group_ids: torch.Tensor | None,
    centers_num: int,
    centers_den: int,
    cutoff_distance: float,
    cutoff_quantile: float,
    spatial_radius: float,
) -> torch.Tensor:
    """labels int64 [B,K]: the centres numbered 0..C-1 in ascending order of their token index."""
    name = "density_peak_clusters"
    check_rank(name, "features", features, "B,K,D")
    batch, num_tokens, _ = features.shape
    check_shape(name, "positions", positions, (batch, num_tokens, 2), "B,K,2")
    check_fraction(name, "centers", (centers_num, centers_den))
    check_finite(name, "features", features)
    check_finite(name, "positions", positions)
    if not (cutoff_quantile > 0 or cutoff_distance > 0):
        raise InputError(
            f"{name}: cutoff_distance must be positive where no cutoff_quantile is given, found {cutoff_distance}"
        )
    if num_tokens == 0:
        return torch.zeros((batch, 0), dtype=torch.int64, device=features.device)
    num_centers = min(num_tokens, cluster_bound(num_tokens, (centers_num, centers_den)))

    squared_BKK = squared_distances(features)
    if cutoff_quantile > 0:
        rank = quantile_rank(num_tokens, cutoff_quantile)
        cutoff_B = squared_BKK.flatten(1).kthvalue(rank + 1, dim=1).values.clamp_min(LEAST_SQUARED_CUTOFF)
    else:
        cutoff_B = torch.full((batch,), cutoff_distance, dtype=torch.float32, device=features.device).square()
    density_BK = torch.exp(-(squared_BKK / cutoff_B.view(-1, 1, 1))).sum(dim=2)

    steps_BKK2 = positions.float().unsqueeze(2) - positions.float().unsqueeze(1)
    radius = torch.tensor(spatial_radius, dtype=torch.float32, device=features.device)
    visible_BKK = steps_BKK2[..., 0].square() + steps_BKK2[..., 1].square() <= radius.square()
    if group_ids is not None:
        check_shape(name, "group_ids", group_ids, (batch, num_tokens), "B,K")
        visible_BKK = visible_BKK & (group_ids.unsqueeze(2) == group_ids.unsqueeze(1))
    gap_BK, parent_BK = nearest_denser(squared_BKK, density_BK, visible_BKK)

    # Centres: the largest ρ·δ; ∞ first, in order of density; equal values in order of index (stable sorts).
    tie_breaker_BK = torch.where(gap_BK.isinf(), density_BK, 0.0)
    by_density_BK = tie_breaker_BK.sort(dim=1, descending=True, stable=True).indices
    peaks_BK = (density_BK * gap_BK.sqrt()).gather(1, by_density_BK)
    by_peak_BK = by_density_BK.gather(1, peaks_BK.sort(dim=1, descending=True, stable=True).indices)
    is_center_BK = torch.zeros_like(density_BK, dtype=torch.bool).scatter(1, by_peak_BK[:, :num_centers], True)

    index_K = torch.arange(num_tokens, device=features.device)
    nearest_center_BK = squared_BKK.masked_fill(~is_center_BK.unsqueeze(1), math.inf).argmin(dim=2)
    parent_BK = torch.where(gap_BK.isinf(), nearest_center_BK, parent_BK)
    parent_BK = torch.where(is_center_BK, index_K, parent_BK)
    for _ in range(math.ceil(math.log2(num_tokens)) if num_tokens > 1 else 0):
        parent_BK = parent_BK.gather(1, parent_BK)
    return (is_center_BK.long().cumsum(1) - 1).gather(1, parent_BK)
