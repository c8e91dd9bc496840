"""Definition of DensityPeakClusters."""

from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import OpSpec

DENSITY_PEAK_CLUSTERS = OpSpec(
    torch_name="density_peak_clusters",
    onnx_name="DensityPeakClusters",
    inputs=("features", "positions", "group_ids"),
    attributes=(
        ("centers_num", int),
        ("centers_den", int),
        ("cutoff_distance", float),
        ("cutoff_quantile", float),
        ("spatial_radius", float),
    ),
    outputs=("labels",),
    optional_inputs=frozenset({"group_ids"}),
)
"""features [B,K,D], positions fp32 [B,K,2], group_ids int64 [B,K] -> labels int64 [B,K] in 0..C-1,
C = max(1, K·num // den).

The ONNX node always has `group_ids`: where a graph has no groups, the exporter gives zeros.
"""

LEAST_SQUARED_CUTOFF = 1e-12
"""Where a quantile of the distances is 0 (duplicates), so that only equal tokens count as near."""

QUANTILE_STEPS = 1_000_000
"""A quantile is taken in steps of one millionth, so that its rank is a matter of integers in every form of the op."""

LEAST_CUTOFF_DISTANCE = 1e-18
"""The square of a smaller one is 0 in fp32."""


def quantile_rank(num_tokens: int, quantile: float) -> int:
    """Which entry (from 0) of a row's K² sorted squared distances is the quantile.

    The quantile is the r-th smallest (nearest rank, r = max(1, ⌈q·P⌉)) of the P = K·(K-1)/2 distances between two
    different tokens. Among the K² entries the K zeros of the diagonal come first, then each pair twice.
    """
    num_pairs = num_tokens * (num_tokens - 1) // 2
    rank = max(1, -(-round(quantile * QUANTILE_STEPS) * num_pairs // QUANTILE_STEPS))
    return min(num_tokens + 2 * min(rank, num_pairs) - 2, num_tokens * num_tokens - 1) if num_pairs else 0


def check_cutoff(cutoff_distance: float, cutoff_quantile: float) -> None:
    """Raises InputError where neither gives a cutoff."""
    if not (cutoff_quantile > 0 or cutoff_distance >= LEAST_CUTOFF_DISTANCE):
        raise InputError(
            "density_peak_clusters: cutoff_distance must be positive where no cutoff_quantile is given "
            f"(at least {LEAST_CUTOFF_DISTANCE}), found {cutoff_distance}"
        )


SPECS = (DENSITY_PEAK_CLUSTERS,)
