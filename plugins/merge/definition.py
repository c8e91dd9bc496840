"""Definition of ClusterMergePlan."""

from vitcop.plugins.spec import OpSpec

CLUSTER_MERGE_PLAN = OpSpec(
    torch_name="cluster_merge_plan",
    onnx_name="ClusterMergePlan",
    inputs=("scores", "labels", "visual_index", "sequence"),
    attributes=(("clusters_num", int), ("clusters_den", int), ("keep_num", int), ("keep_den", int), ("mean", int)),
    outputs=("kept_positions", "new_visual_index", "kept_visual", "assignment"),
    revision=2,  # 1 doubled the tokens that a cluster keeps to itself
)
"""scores [B,V], labels int64 [B,V], visual_index int64 [B,V], sequence [B,S,...] (only its shape)
-> int64 [B,S-V+R], [B,R], [B,R] and assignment fp32 [B,R,V], R = keep_count(V, (keep_num, keep_den)).
"""

SPECS = (CLUSTER_MERGE_PLAN,)


def cluster_bound(num_visual: int, clusters: tuple[int, int]) -> int:
    """C = max(1, V·num // den), 0 where there is no token: labels lie in 0..C-1."""
    num, den = clusters
    return max(min(num_visual, 1), num_visual * num // den)
