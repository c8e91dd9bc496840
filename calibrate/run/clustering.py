"""Clusters of the tokens that a vision stage keeps, and how sure they are."""

from dataclasses import dataclass

import numpy as np
import torch

from vitcop.calibrate.schedule.schedule import Clusters
from vitcop.plugins import ops

TRIALS = 64
"""How often features are moved. One near-tie falls to either side about as often."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Density-peak clusters, and what they were found from.

    Args:
        labels: int64 [B,K].
        features: fp32 [B,K,D].
        grid: fp32 [B,K,2], places in their tiles.
        group: int64 [B,K], tiles or frames.
        clusters: the rule.
    """

    labels: torch.Tensor
    features: torch.Tensor
    grid: torch.Tensor
    group: torch.Tensor
    clusters: Clusters

    @classmethod
    def of(cls, features: torch.Tensor, grid: torch.Tensor, group: torch.Tensor, clusters: Clusters) -> "Clustering":
        """By the rule."""
        labels = _labels(features, grid, group, clusters)
        return cls(labels=labels, features=features, grid=grid, group=group, clusters=clusters)

    def moved(self, row: int, share: float) -> np.ndarray:
        """int64 [TRIALS,K]: the labels of a row when each feature moves at random, evenly by up to `share` of the
        largest feature of the row. The same on every call."""
        features_1KD, grid_1K2, group_1K = (of[row : row + 1].cpu() for of in (self.features, self.grid, self.group))
        reach = share * features_1KD.abs().max()
        noise = torch.rand(TRIALS, *features_1KD.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
        return _labels(
            features_1KD + reach * noise, grid_1K2.repeat(TRIALS, 1, 1), group_1K.repeat(TRIALS, 1), self.clusters
        ).numpy()


def _labels(features: torch.Tensor, grid: torch.Tensor, group: torch.Tensor, clusters: Clusters) -> torch.Tensor:
    return ops.density_peak_clusters(
        features,
        grid,
        group_ids=group,
        centers=clusters.centers,
        # Unused where the quantile decides, but the op wants a number.
        cutoff_distance=8.0 if clusters.cutoff_distance is None else clusters.cutoff_distance,
        cutoff_quantile=clusters.cutoff_quantile,
        spatial_radius=clusters.spatial_radius,
    )
