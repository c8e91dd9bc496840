"""Definitions of ScoreSelect, TextQueryScores, UniformScores and RandomScores."""

from vitcop.plugins.spec import OpSpec

SCORE_SELECT = OpSpec(
    torch_name="score_select",
    onnx_name="ScoreSelect",
    inputs=("scores", "visual_index", "sequence"),
    attributes=(("keep_num", int), ("keep_den", int), ("largest", int)),
    outputs=("kept_positions", "new_visual_index", "kept_visual"),
)
"""scores [B,V], visual_index int64 [B,V], sequence [B,S,...] (only its shape) -> int64 [B,S-V+K], [B,K], [B,K]."""

TEXT_QUERY_SCORES = OpSpec(
    torch_name="text_query_scores",
    onnx_name="TextQueryScores",
    inputs=("q_last", "keys", "visual_index", "attention_mask"),
    attributes=(("scale", float),),
    outputs=("scores",),
)
"""q_last [B,Nh,D], keys [B,Nkv,S,D], visual_index int64 [B,V], attention_mask int64 [B,S] -> scores fp32 [B,V]."""

UNIFORM_SCORES = OpSpec(
    torch_name="uniform_scores",
    onnx_name="UniformScores",
    inputs=("visual_index",),
    attributes=(("keep_num", int), ("keep_den", int)),
    outputs=("scores",),
)
"""visual_index int64 [B,V] (only its shape) -> scores fp32 [B,V], 1.0 at K evenly spread tokens and 0.0 elsewhere."""

RANDOM_SCORES = OpSpec(
    torch_name="random_scores",
    onnx_name="RandomScores",
    inputs=("visual_positions",),
    attributes=(("seed", int),),
    outputs=("scores",),
)
"""visual_positions int64 [B,V] (original position ids) -> scores fp32 [B,V], multiples of 2^-24 in [0, 1)."""

SPECS = (SCORE_SELECT, TEXT_QUERY_SCORES, UNIFORM_SCORES, RANDOM_SCORES)
