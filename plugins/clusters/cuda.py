"""DensityPeakClusters by the CUDA kernels: no value is read back."""

import torch

from vitcop.plugins.checks import check_fraction, check_rank, check_shape
from vitcop.plugins.clusters.definition import check_cutoff, quantile_rank
from vitcop.plugins.cuda import library, tensors
from vitcop.plugins.merge.definition import cluster_bound


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
    """As reference.density_peak_clusters; a distance that is NaN or infinite counts as infinite."""
    name = "density_peak_clusters"
    check_rank(name, "features", features, "B,K,D")
    batch, num_tokens, num_features = features.shape
    check_shape(name, "positions", positions, (batch, num_tokens, 2), "B,K,2")
    check_fraction(name, "centers", (centers_num, centers_den))
    check_cutoff(cutoff_distance, cutoff_quantile)
    if group_ids is not None:
        check_shape(name, "group_ids", group_ids, (batch, num_tokens), "B,K")
        group_ids = group_ids.long().contiguous()
    features, positions = tensors.readable(features), positions.float().contiguous()
    labels_BK = features.new_empty((batch, num_tokens), dtype=torch.int64)
    scratch = library.workspace("vitcop_density_peak_clusters", batch, num_tokens, device=features.device)
    num_centers = min(num_tokens, cluster_bound(num_tokens, (centers_num, centers_den)))
    rank = quantile_rank(num_tokens, cutoff_quantile) if cutoff_quantile > 0 else -1
    library.call(
        "vitcop_density_peak_clusters", features, library.DTYPES[features.dtype], positions, group_ids, 64, labels_BK,
        batch, num_tokens, num_features, num_centers, rank,
        float(cutoff_distance), float(spatial_radius), scratch, device=features.device,
    )  # fmt: skip
    return labels_BK
