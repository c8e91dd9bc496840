"""torch.library op of DensityPeakClusters."""

import torch

from vitcop.plugins.clusters import cuda, reference
from vitcop.plugins.clusters.definition import DENSITY_PEAK_CLUSTERS
from vitcop.plugins.cuda.library import register
from vitcop.plugins.torch_schema import torch_schema


@torch.library.custom_op("vitcop::density_peak_clusters", mutates_args=(), schema=torch_schema(DENSITY_PEAK_CLUSTERS))
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
    return reference.density_peak_clusters(
        features, positions, group_ids, centers_num, centers_den, cutoff_distance, cutoff_quantile, spatial_radius
    )


@density_peak_clusters.register_fake
def _(features, positions, group_ids, centers_num, centers_den, cutoff_distance, cutoff_quantile, spatial_radius):
    return features.new_empty(features.shape[:2], dtype=torch.int64)


register(density_peak_clusters, cuda.density_peak_clusters, reference.density_peak_clusters)
