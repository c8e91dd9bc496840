"""Definition of DensityPeakClusters."""

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

SPECS = (DENSITY_PEAK_CLUSTERS,)
