"""DensityPeakClusters by the CUDA kernels: no value is read back."""

import torch

from vitcop.plugins.clusters.definition import quantile_rank
from vitcop.plugins.clusters.reference import check_inputs
from vitcop.plugins.cuda import library, tensors


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
    centers = (centers_num, centers_den)
    num_centers = check_inputs(features, positions, group_ids, centers, cutoff_distance, cutoff_quantile)
    batch, num_tokens, num_features = features.shape
    group_ids = None if group_ids is None else group_ids.long().contiguous()
    features, positions = tensors.readable(features), positions.float().contiguous()
    labels_BK = features.new_empty((batch, num_tokens), dtype=torch.int64)
    scratch = library.workspace("vitcop_density_peak_clusters", batch, num_tokens, device=features.device)
    rank = quantile_rank(num_tokens, cutoff_quantile) if cutoff_quantile > 0 else -1
    library.call(
        "vitcop_density_peak_clusters", features, library.DTYPES[features.dtype], positions, group_ids, 64, labels_BK,
        batch, num_tokens, num_features, num_centers, rank,
        float(cutoff_distance), float(spatial_radius), scratch, device=features.device,
    )  # fmt: skip
    return labels_BK
