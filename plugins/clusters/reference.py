"""Torch reference of DensityPeakClusters: every step over the whole batch, in O(K²) memory whatever D is.

One function a step; `density_peak_clusters` composes them. B rows, K tokens, D features, C centres. Tensors [B,K,K] are
what takes memory, so steps work in place on tensors of their own where they can.
"""

import math

import torch

from vitcop.plugins.checks import check_finite, check_fraction, check_rank, check_shape
from vitcop.plugins.clusters.definition import LEAST_SQUARED_CUTOFF, check_cutoff, quantile_rank
from vitcop.plugins.merge.definition import cluster_bound
from vitcop.plugins.spec import Fraction

ROWS_AT_ONCE = 128
"""Tokens whose densities are summed together: the sum in fp64 needs a copy of its terms twice as wide as they are."""


def squared_distances(features_BKD: torch.Tensor) -> torch.Tensor:
    """‖a-b‖² [B,K,K] in fp32 by one matrix product, at least 0 and exactly 0 on the diagonal.

    Subtracting a token first keeps |a|² + |b|² - 2ab from cancelling when all tokens share a large offset. Unlike
    subtracting the mean it is free of rounding for integers, and for most numbers of half precision. It is the token
    nearest to the mean: one far out would bring in a large offset itself. The squared norms are the diagonal of the
    same product, so that equal tokens are summed in the same way and cancel to 0.
    """
    shifted_BKD = features_BKD.to(torch.float32, copy=True)
    shifted_BKD -= shifted_BKD.mean(dim=1, keepdim=True)
    central_B = torch.linalg.vector_norm(shifted_BKD, dim=2).argmin(dim=1)
    central_B1D = features_BKD.gather(1, central_B.view(-1, 1, 1).expand(-1, 1, features_BKD.shape[2]))
    shifted_BKD.copy_(features_BKD).sub_(central_B1D)
    products_BKK = torch.matmul(shifted_BKD, shifted_BKD.transpose(1, 2))
    del shifted_BKD  # where D > K, larger than any that follows
    norms_BK = products_BKK.diagonal(dim1=1, dim2=2)
    squared_BKK = (norms_BK.unsqueeze(2) + norms_BK.unsqueeze(1)).sub_(products_BKK, alpha=2).clamp_min_(0.0)
    squared_BKK.diagonal(dim1=1, dim2=2).zero_()
    return squared_BKK


def squared_cutoffs(squared_BKK: torch.Tensor, cutoff_distance: float, cutoff_quantile: float) -> torch.Tensor:
    """d_c² of each row, fp32 [B]: of the distance, or of the row's quantile where one is given."""
    if cutoff_quantile > 0:
        rank = quantile_rank(squared_BKK.shape[1], cutoff_quantile)
        return squared_BKK.flatten(1).kthvalue(rank + 1, dim=1).values.clamp_min_(LEAST_SQUARED_CUTOFF)
    return squared_BKK.new_full(squared_BKK.shape[:1], cutoff_distance).square_()


def densities(squared_BKK: torch.Tensor, squared_cutoff_B: torch.Tensor) -> torch.Tensor:
    """ρ [B,K] in fp32: Σ exp(-(d²/d_c²)).

    Summed in fp64: there the order of summation is lost in the rounding to fp32, so that tokens whose distances are a
    permutation of each other's tie, in this form and in every other.
    """
    sums = []
    for squared_BRK in squared_BKK.split(ROWS_AT_ONCE, dim=1):
        nearness_BRK = (squared_BRK / squared_cutoff_B.view(-1, 1, 1)).neg_().exp_()
        sums.append(nearness_BRK.sum(dim=2, dtype=torch.float64))
    return torch.cat(sums, dim=1).float()


def visible(positions_BK2: torch.Tensor, group_ids_BK: torch.Tensor | None, radius: float) -> torch.Tensor:
    """Which tokens see each other, bool [B,K,K]: same group and at most `radius` apart (squares in fp32)."""
    x_BK, y_BK = positions_BK2.float().unbind(dim=2)
    step_sq_BKK = (x_BK.unsqueeze(2) - x_BK.unsqueeze(1)).square_()
    step_sq_BKK += (y_BK.unsqueeze(2) - y_BK.unsqueeze(1)).square_()
    visible_BKK = step_sq_BKK <= torch.tensor(radius, dtype=torch.float32, device=step_sq_BKK.device).square()
    if group_ids_BK is not None:
        visible_BKK &= group_ids_BK.unsqueeze(2) == group_ids_BK.unsqueeze(1)
    return visible_BKK


def nearest_denser(
    squared_BKK: torch.Tensor, density_BK: torch.Tensor, visible_BKK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(δ² [B,K], the nearest denser visible token [B,K]); where there is none, (∞, the token itself)."""
    # The densest token has place 0; of equal densities the lower index comes first.
    place_BK = density_BK.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    denser_BKK = place_BK.unsqueeze(1) < place_BK.unsqueeze(2)
    denser_BKK &= visible_BKK
    gap_sq_BK, nearest_BK = torch.where(denser_BKK, squared_BKK, math.inf).min(dim=2)  # the first of equals
    index_K = torch.arange(density_BK.shape[1], device=density_BK.device)
    return gap_sq_BK, torch.where(gap_sq_BK.isinf(), index_K, nearest_BK)


def find_centers(density_BK: torch.Tensor, gap_sq_BK: torch.Tensor, num_centers: int) -> torch.Tensor:
    """The C tokens of largest ρ·δ, ascending int64 [B,C]: ∞ first, by ρ; equal values by index (stable sorts)."""
    tie_breaker_BK = torch.where(gap_sq_BK.isinf(), density_BK, 0.0)
    by_density_BK = tie_breaker_BK.sort(dim=1, descending=True, stable=True).indices
    peak_BK = (density_BK * gap_sq_BK.sqrt()).gather(1, by_density_BK)
    by_peak_BK = by_density_BK.gather(1, peak_BK.sort(dim=1, descending=True, stable=True).indices)
    return by_peak_BK[:, :num_centers].sort(dim=1).values


def labels_of(
    centers_BC: torch.Tensor, squared_BKK: torch.Tensor, gap_sq_BK: torch.Tensor, nearest_BK: torch.Tensor
) -> torch.Tensor:
    """Labels [B,K] in 0..C-1: each token takes that of its nearest denser token, or having none, of its nearest centre.

    The arguments are the outputs of `find_centers`, `squared_distances` and `nearest_denser`.
    """
    batch, num_tokens = nearest_BK.shape
    # Centres ascend, so that the first of equally near ones is that of lowest index.
    to_centers_BKC = squared_BKK.gather(2, centers_BC.unsqueeze(1).expand(-1, num_tokens, -1))
    nearest_center_BK = centers_BC.gather(1, to_centers_BKC.argmin(dim=2))
    parent_BK = torch.where(gap_sq_BK.isinf(), nearest_center_BK, nearest_BK).scatter(1, centers_BC, centers_BC)
    for _ in range((num_tokens - 1).bit_length()):  # each jump doubles the links behind a token, of at most K-1
        parent_BK = parent_BK.gather(1, parent_BK)
    label_C = torch.arange(centers_BC.shape[1], device=centers_BC.device)
    label_BK = torch.zeros_like(parent_BK).scatter(1, centers_BC, label_C.expand(batch, -1))
    return label_BK.gather(1, parent_BK)


def check_inputs(
    features: torch.Tensor,
    positions: torch.Tensor,
    group_ids: torch.Tensor | None,
    centers: Fraction,
    cutoff_distance: float,
    cutoff_quantile: float,
) -> int:
    """What shapes and attributes alone show; no value of a tensor is read. Returns the number of centres."""
    name = "density_peak_clusters"
    check_rank(name, "features", features, "B,K,D")
    batch, num_tokens, _ = features.shape
    check_shape(name, "positions", positions, (batch, num_tokens, 2), "B,K,2")
    if group_ids is not None:
        check_shape(name, "group_ids", group_ids, (batch, num_tokens), "B,K")
    check_fraction(name, "centers", centers)
    check_cutoff(cutoff_distance, cutoff_quantile)
    return min(num_tokens, cluster_bound(num_tokens, centers))


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
    centers = (centers_num, centers_den)
    num_centers = check_inputs(features, positions, group_ids, centers, cutoff_distance, cutoff_quantile)
    check_finite(name, "features", features)
    check_finite(name, "positions", positions)
    if features.shape[0] == 0 or features.shape[1] == 0:
        return torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)

    squared_BKK = squared_distances(features)
    check_finite(name, "the squared distance of features", squared_BKK.amax())
    density_BK = densities(squared_BKK, squared_cutoffs(squared_BKK, cutoff_distance, cutoff_quantile))
    visible_BKK = visible(positions, group_ids, spatial_radius)
    gap_sq_BK, nearest_BK = nearest_denser(squared_BKK, density_BK, visible_BKK)
    centers_BC = find_centers(density_BK, gap_sq_BK, num_centers)
    return labels_of(centers_BC, squared_BKK, gap_sq_BK, nearest_BK)
