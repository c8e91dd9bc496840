"""Definitions of KNormScores and KNormSelect."""

from vitcop.plugins.spec import OpSpec

KNORM_SCORES = OpSpec(
    torch_name="knorm_scores",
    onnx_name="KNormScores",
    inputs=("keys", "visual_index"),
    attributes=(("mean_norm", int),),
    outputs=("scores",),
)
"""keys [B,Nkv,S,D], visual_index int64 [B,V] -> scores fp32 [B,V].

mean_norm: 0 is the norm of the mean key over KV heads, 1 the mean of the heads' norms.
"""

KNORM_SELECT = OpSpec(
    torch_name="knorm_select",
    onnx_name="KNormSelect",
    inputs=("keys", "visual_index"),
    attributes=(("keep_num", int), ("keep_den", int), ("largest", int), ("mean_norm", int)),
    outputs=("kept_positions", "new_visual_index", "kept_visual"),
)
"""keys [B,Nkv,S,D], visual_index int64 [B,V] -> int64 [B,S-V+K], [B,K], [B,K], K = keep_count(V, (num, den))."""

SPECS = (KNORM_SCORES, KNORM_SELECT)
