"""ONNX functions of ScoreSelect, TextQueryScores, UniformScores and RandomScores."""

import onnx

from vitcop.plugins import onnx_text
from vitcop.plugins.scores import hash as score_hash
from vitcop.plugins.scores.definition import RANDOM_SCORES, SCORE_SELECT, TEXT_QUERY_SCORES, UNIFORM_SCORES

_SELECT = (
    onnx_text.CONSTANTS
    + """
scores_fp32 = Cast <to = 1> (scores)
num_positions = Shape <start = 1, end = 2> (sequence)
"""
    + onnx_text.KEEP_COUNT
    + onnx_text.PICK
    + onnx_text.AFTER_DROP
)

# keys [B,Nkv,S,D] times the queries of their group [B,Nkv,D,G]: keys stay untransposed, no KV head is repeated.
_TEXT_QUERY = (
    onnx_text.CONSTANTS
    + """
q_fp32 = Cast <to = 1> (q_last)
keys_fp32 = Cast <to = 1> (keys)
batch = Shape <start = 0, end = 1> (keys)
num_kv_heads = Shape <start = 1, end = 2> (keys)
head_dim = Shape <start = 3, end = 4> (keys)
group_size = Constant <value_ints = [-1]> ()
grouped_shape = Concat <axis = 0> (batch, num_kv_heads, group_size, head_dim)
q_grouped = Reshape (q_fp32, grouped_shape)
q_columns = Transpose <perm = [0, 1, 3, 2]> (q_grouped)
products = MatMul (keys_fp32, q_columns)
scale_value = Constant <value_float: float = @scale> ()
logits = Mul (products, scale_value)
is_padding = Equal (attention_mask, zero)
mask_axes = Constant <value_ints = [1, 3]> ()
is_padding_4d = Unsqueeze (is_padding, mask_axes)
lowest = Constant <value_float = -3.4028234663852886e38> ()
masked = Where (is_padding_4d, lowest, logits)
attention = Softmax <axis = 2> (masked)
over_heads = ReduceSum <keepdims = 0> (attention, mask_axes)
scores = GatherElements <axis = 1> (over_heads, visual_index)
"""
)

_UNIFORM = (
    onnx_text.CONSTANTS
    + onnx_text.KEEP_COUNT
    + """
num_visual_scalar = Squeeze (num_visual)
lower = Range (zero, num_visual_scalar, one)
upper = Add (lower, one)
two = Constant <value_int = 2> ()
slope = Mul (num_kept, two)
width_any = Mul (num_visual, two)
width = Max (width_any, one)
lower_scaled = Mul (lower, slope)
lower_shifted = Add (lower_scaled, num_visual)
lower_edge = Div (lower_shifted, width)
upper_scaled = Mul (upper, slope)
upper_shifted = Add (upper_scaled, num_visual)
upper_edge = Div (upper_shifted, width)
steps = Sub (upper_edge, lower_edge)
steps_fp32 = Cast <to = 1> (steps)
shape_BV = Shape (visual_index)
scores = Expand (steps_fp32, shape_BV)
"""
)


def _mix(source: str, target: str) -> str:
    """scores.hash.mix as nodes; intermediate names start with `target`."""
    t = target
    return f"""
{t}_high1 = Div ({source}, shift1)
{t}_xor1 = BitwiseXor ({source}, {t}_high1)
{t}_product1 = Mul ({t}_xor1, multiplier1)
{t}_word1 = Mod ({t}_product1, word)
{t}_high2 = Div ({t}_word1, shift2)
{t}_xor2 = BitwiseXor ({t}_word1, {t}_high2)
{t}_product2 = Mul ({t}_xor2, multiplier2)
{t}_word2 = Mod ({t}_product2, word)
{t}_high3 = Div ({t}_word2, shift2)
{t} = BitwiseXor ({t}_word2, {t}_high3)
"""


_RANDOM = (
    f"""
word = Constant <value_int = {score_hash.WORD}> ()
multiplier1 = Constant <value_int = {score_hash.MULTIPLIER_1}> ()
multiplier2 = Constant <value_int = {score_hash.MULTIPLIER_2}> ()
shift1 = Constant <value_int = {score_hash.SHIFT_1}> ()
shift2 = Constant <value_int = {score_hash.SHIFT_2}> ()
score_shift = Constant <value_int = {score_hash.SCORE_SHIFT}> ()
seed_value = Constant <value_int: int = @seed> ()
seed_in_range = Mod (seed_value, word)
seed_offset = Constant <value_int = {score_hash.SEED_OFFSET}> ()
seed_shifted = Add (seed_in_range, seed_offset)
seed_word = Mod (seed_shifted, word)
position_word = Mod (visual_positions, word)
"""
    + _mix("seed_word", "seed_mixed")
    + _mix("position_word", "position_mixed")
    + """
both = Add (position_mixed, seed_mixed)
both_word = Mod (both, word)
"""
    + _mix("both_word", "mixed")
    + f"""
top = Div (mixed, score_shift)
top_fp32 = Cast <to = 1> (top)
step = Constant <value_float = {score_hash.SCORE_STEP!r}> ()
scores = Mul (top_fp32, step)
"""
)


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [
        onnx_text.function(SCORE_SELECT, _SELECT, opset_version),
        onnx_text.function(TEXT_QUERY_SCORES, _TEXT_QUERY, opset_version),
        onnx_text.function(UNIFORM_SCORES, _UNIFORM, opset_version),
        onnx_text.function(RANDOM_SCORES, _RANDOM, opset_version),
    ]
