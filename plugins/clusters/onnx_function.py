"""ONNX function of DensityPeakClusters: the steps of the reference, name for name.

`TopK` over a whole row is the stable sort; of a permutation, ascending, it gives the inverse.
"""

import onnx

from vitcop.plugins import onnx_text
from vitcop.plugins.clusters.definition import DENSITY_PEAK_CLUSTERS, LEAST_SQUARED_CUTOFF, QUANTILE_STEPS

NUM_JUMPS = 17
"""Pointer jumps. Each doubles the length of the chains that are resolved: enough for K up to 2^17 tokens."""

_SIZES = """
features_fp32 = Cast <to = 1> (features)
positions_fp32 = Cast <to = 1> (positions)
infinity = Constant <value_float = inf> ()
nothing = Constant <value_float = 0.0> ()
batch = Shape <start = 0, end = 1> (features)
num_tokens = Shape <start = 1, end = 2> (features)
num_tokens_scalar = Squeeze (num_tokens)
index_K = Range (zero, num_tokens_scalar, one)
index_column = Unsqueeze (index_K, axis1)
same_KK = Equal (index_K, index_column)
centers_num_value = Constant <value_int: int = @centers_num> ()
centers_den_value = Constant <value_int: int = @centers_den> ()
centers_scaled = Mul (num_tokens, centers_num_value)
centers_share = Div (centers_scaled, centers_den_value)
centers_or_one = Max (centers_share, one)
num_centers = Min (num_tokens, centers_or_one)
"""

# ONNX has no operator for a diagonal: `norms_column` [B,K,1] gathers entry i of row i.
_DISTANCES = """
mean_token = ReduceMean <keepdims = 1> (features_fp32, axis1)
off_mean = Sub (features_fp32, mean_token)
off_mean_sq = Mul (off_mean, off_mean)
from_mean = ReduceSum <keepdims = 0> (off_mean_sq, axis2)
one_or_none = Min (num_tokens, one)
least_from_mean, central = TopK <axis = 1, largest = 0, sorted = 1> (from_mean, one_or_none)
central_column = Unsqueeze (central, axis2)
num_features = Shape <start = 2, end = 3> (features)
central_shape = Concat <axis = 0> (batch, one_or_none, num_features)
central_expanded = Expand (central_column, central_shape)
central_token = GatherElements <axis = 1> (features_fp32, central_expanded)
shifted = Sub (features_fp32, central_token)
shifted_T = Transpose <perm = [0, 2, 1]> (shifted)
products = MatMul (shifted, shifted_T)
diagonal_shape = Concat <axis = 0> (batch, num_tokens, axis1)
diagonal = Expand (index_column, diagonal_shape)
norms_column = GatherElements <axis = 2> (products, diagonal)
norms_row = Transpose <perm = [0, 2, 1]> (norms_column)
norms_sum = Add (norms_column, norms_row)
products_twice = Add (products, products)
raw_squared = Sub (norms_sum, products_twice)
positive_squared = Max (raw_squared, nothing)
squared = Where (same_KK, nothing, positive_squared)
"""

_CUTOFF = f"""
quantile = Constant <value_float: float = @cutoff_quantile> ()
use_quantile = Greater (quantile, nothing)
cutoff_sq = If (use_quantile) <
  then_branch = of_quantile () => (cutoff_of_quantile) {{
    tokens_less = Sub (num_tokens, one)
    ordered_pairs = Mul (num_tokens, tokens_less)
    two = Constant <value_int = 2> ()
    num_pairs = Div (ordered_pairs, two)
    quantile_double = Cast <to = 11> (quantile)
    steps_double = Constant <value = double {{{QUANTILE_STEPS}.0}}> ()
    quantile_scaled = Mul (quantile_double, steps_double)
    quantile_rounded = Round (quantile_scaled)
    quantile_steps = Cast <to = 7> (quantile_rounded)
    steps = Constant <value_int = {QUANTILE_STEPS}> ()
    share = Mul (quantile_steps, num_pairs)
    round_up = Constant <value_int = {QUANTILE_STEPS - 1}> ()
    share_up = Add (share, round_up)
    rank_raw = Div (share_up, steps)
    rank_most = Min (rank_raw, num_pairs)
    rank_least = Max (rank_most, one)
    rank_both = Mul (rank_least, two)
    entry = Add (num_tokens, rank_both)
    entry_count = Sub (entry, one)
    all_entries = Mul (num_tokens, num_tokens)
    count = Min (entry_count, all_entries)
    flat_shape = Concat <axis = 0> (batch, all_entries)
    flat = Reshape (squared, flat_shape)
    smallest, smallest_index = TopK <axis = 1, largest = 0, sorted = 1> (flat, count)
    last = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    entry_value = Slice (smallest, last, end, axis1)
    least = Constant <value_float = {LEAST_SQUARED_CUTOFF}> ()
    entry_positive = Max (entry_value, least)
    cutoff_of_quantile = Unsqueeze (entry_positive, axis2)
  }},
  else_branch = of_distance () => (cutoff_of_distance) {{
    distance = Constant <value_float: float = @cutoff_distance> ()
    distance_sq = Mul (distance, distance)
    unit_shape = Constant <value_ints = [1, 1, 1]> ()
    cutoff_of_distance = Reshape (distance_sq, unit_shape)
  }}
>
"""

_DENSITIES = """
scaled_distances = Div (squared, cutoff_sq)
negative_distances = Neg (scaled_distances)
nearness = Exp (negative_distances)
nearness_fp64 = Cast <to = 11> (nearness)
density_fp64 = ReduceSum <keepdims = 0> (nearness_fp64, axis2)
density = Cast <to = 1> (density_fp64)
"""

_VISIBLE = """
x = Gather <axis = 2> (positions_fp32, zero)
y = Gather <axis = 2> (positions_fp32, one)
x_column = Unsqueeze (x, axis2)
x_row = Unsqueeze (x, axis1)
x_step = Sub (x_column, x_row)
x_sq = Mul (x_step, x_step)
y_column = Unsqueeze (y, axis2)
y_row = Unsqueeze (y, axis1)
y_step = Sub (y_column, y_row)
y_sq = Mul (y_step, y_step)
step_sq = Add (x_sq, y_sq)
radius = Constant <value_float: float = @spatial_radius> ()
radius_sq = Mul (radius, radius)
in_reach = LessOrEqual (step_sq, radius_sq)
group_column = Unsqueeze (group_ids, axis2)
group_row = Unsqueeze (group_ids, axis1)
same_group = Equal (group_column, group_row)
visible = And (in_reach, same_group)
"""

_DENSER = """
by_density_value, by_density = TopK <axis = 1, largest = 1, sorted = 1> (density, num_tokens)
by_density_sorted, place = TopK <axis = 1, largest = 0, sorted = 1> (by_density, num_tokens)
place_column = Unsqueeze (place, axis2)
place_row = Unsqueeze (place, axis1)
denser = Less (place_row, place_column)
denser_visible = And (denser, visible)
to_denser = Where (denser_visible, squared, infinity)
nearest = ArgMin <axis = 2, keepdims = 0> (to_denser)
gap_sq = ReduceMin <keepdims = 0> (to_denser, axis2)
alone = IsInf (gap_sq)
"""

_CENTERS = """
gap = Sqrt (gap_sq)
peak = Mul (density, gap)
tie_breaker = Where (alone, density, nothing)
tie_breaker_value, by_tie_breaker = TopK <axis = 1, largest = 1, sorted = 1> (tie_breaker, num_tokens)
peak_in_order = GatherElements <axis = 1> (peak, by_tie_breaker)
by_peak_value, by_peak_place = TopK <axis = 1, largest = 1, sorted = 1> (peak_in_order, num_centers)
by_peak = GatherElements <axis = 1> (by_tie_breaker, by_peak_place)
centers, centers_order = TopK <axis = 1, largest = 0, sorted = 1> (by_peak, num_centers)
"""

_LABELS = """
centers_row = Unsqueeze (centers, axis1)
shape_BKC = Concat <axis = 0> (batch, num_tokens, num_centers)
centers_BKC = Expand (centers_row, shape_BKC)
to_centers = GatherElements <axis = 2> (squared, centers_BKC)
nearest_center_label = ArgMin <axis = 2, keepdims = 0> (to_centers)
nearest_center = GatherElements <axis = 1> (centers, nearest_center_label)
parent = Where (alone, nearest_center, nearest)
jump0 = ScatterElements <axis = 1> (parent, centers, centers)
num_centers_scalar = Squeeze (num_centers)
label_C = Range (zero, num_centers_scalar, one)
shape_BC = Shape (centers)
label_BC = Expand (label_C, shape_BC)
shape_BK = Shape (density)
zeros_BK = ConstantOfShape <value = int64[1] {0}> (shape_BK)
label_of_center = ScatterElements <axis = 1> (zeros_BK, centers, label_BC)
"""

_JUMPS = "".join(f"jump{i + 1} = GatherElements <axis = 1> (jump{i}, jump{i})\n" for i in range(NUM_JUMPS))

_BODY = (
    onnx_text.CONSTANTS
    + _SIZES
    + _DISTANCES
    + _CUTOFF
    + _DENSITIES
    + _VISIBLE
    + _DENSER
    + _CENTERS
    + _LABELS
    + _JUMPS
    + f"labels = GatherElements <axis = 1> (label_of_center, jump{NUM_JUMPS})\n"
)


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [onnx_text.function(DENSITY_PEAK_CLUSTERS, _BODY, opset_version)]
