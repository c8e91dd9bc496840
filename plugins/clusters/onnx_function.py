"""ONNX function of DensityPeakClusters: the steps of the reference, name for name."""

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

_DISTANCES = """
mean_token = ReduceMean <keepdims = 1> (features_fp32, axis1)
centred = Sub (features_fp32, mean_token)
centred_squares = Mul (centred, centred)
norms = ReduceSum <keepdims = 0> (centred_squares, axis2)
norms_column = Unsqueeze (norms, axis2)
norms_row = Unsqueeze (norms, axis1)
norms_sum = Add (norms_column, norms_row)
centred_T = Transpose <perm = [0, 2, 1]> (centred)
products = MatMul (centred, centred_T)
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
    flat_shape = Constant <value_ints = [0, -1]> ()
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
scaled_distances = Div (squared, cutoff_sq)
negative_distances = Neg (scaled_distances)
nearness = Exp (negative_distances)
density = ReduceSum <keepdims = 0> (nearness, axis2)
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
density_own = Unsqueeze (density, axis2)
density_other = Unsqueeze (density, axis1)
larger = Greater (density_other, density_own)
equal = Equal (density_other, density_own)
lower_index = Less (index_K, index_column)
equal_lower = And (equal, lower_index)
denser = Or (larger, equal_lower)
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
by_density_value, by_density = TopK <axis = 1, largest = 1, sorted = 1> (tie_breaker, num_tokens)
peak_by_density = GatherElements <axis = 1> (peak, by_density)
by_peak_value, by_peak_place = TopK <axis = 1, largest = 1, sorted = 1> (peak_by_density, num_centers)
centers = GatherElements <axis = 1> (by_density, by_peak_place)
shape_BK = Shape (density)
shape_BC = Shape (centers)
zeros_BK = ConstantOfShape <value = int64[1] {0}> (shape_BK)
ones_BC = ConstantOfShape <value = int64[1] {1}> (shape_BC)
center_flags = ScatterElements <axis = 1> (zeros_BK, centers, ones_BC)
is_center = Cast <to = 9> (center_flags)
is_center_row = Unsqueeze (is_center, axis1)
to_centers = Where (is_center_row, squared, infinity)
nearest_center = ArgMin <axis = 2, keepdims = 0> (to_centers)
parent_or_center = Where (alone, nearest_center, nearest)
jump0 = Where (is_center, index_K, parent_or_center)
center_count = CumSum (center_flags, one)
center_label = Sub (center_count, one)
"""

_JUMPS = "".join(f"jump{i + 1} = GatherElements <axis = 1> (jump{i}, jump{i})\n" for i in range(NUM_JUMPS))

_BODY = (
    onnx_text.CONSTANTS
    + _SIZES
    + _DISTANCES
    + _CUTOFF
    + _VISIBLE
    + _DENSER
    + _CENTERS
    + _JUMPS
    + f"labels = GatherElements <axis = 1> (center_label, jump{NUM_JUMPS})\n"
)


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [onnx_text.function(DENSITY_PEAK_CLUSTERS, _BODY, opset_version)]
