"""ONNX function of ClusterMergePlan: the steps of the reference, name for name.

`TopK` with largest = 0 over a whole row is the stable ascending sort; of a permutation it gives the inverse.
Labels out of range, which the reference refuses, count as the nearest label in range: a graph cannot refuse.
"""

import onnx

from vitcop.plugins import onnx_text
from vitcop.plugins.merge.definition import CLUSTER_MERGE_PLAN

_SIZES = (
    onnx_text.CONSTANTS
    + onnx_text.KEEP_COUNT
    + """
two = Constant <value_int = 2> ()
infinity = Constant <value = double {inf}> ()
nothing = Constant <value = double {0.0}> ()
clusters_num_value = Constant <value_int: int = @clusters_num> ()
clusters_den_value = Constant <value_int: int = @clusters_den> ()
clusters_scaled = Mul (num_visual, clusters_num_value)
clusters_share = Div (clusters_scaled, clusters_den_value)
clusters_least = Min (num_visual, one)
num_clusters = Max (clusters_share, clusters_least)
num_clusters_scalar = Squeeze (num_clusters)
last_label = Sub (num_clusters, one)
labels_positive = Max (labels, zero)
labels_BV = Min (labels_positive, last_label)
scores_fp32 = Cast <to = 1> (scores)
scores_fp64 = Cast <to = 11> (scores_fp32)
cluster_C = Range (zero, num_clusters_scalar, one)
cluster_column = Unsqueeze (cluster_C, axis1)
labels_row = Unsqueeze (labels_BV, axis1)
scores_row = Unsqueeze (scores_fp64, axis1)
member_BCV = Equal (labels_row, cluster_column)
member_ones = Cast <to = 7> (member_BCV)
sizes = ReduceSum <keepdims = 0> (member_ones, axis2)
member_scores = Where (member_BCV, scores_row, nothing)
sums_all = ReduceSum <keepdims = 0> (member_scores, axis2)
is_empty = Equal (sizes, zero)
sums = Where (is_empty, infinity, sums_all)
is_present = Greater (sizes, zero)
present_ones = Cast <to = 7> (is_present)
num_present = ReduceSum <keepdims = 1> (present_ones, axis1)
"""
)

_QUOTAS = """
places_any = Sub (num_kept, num_present)
num_places = Max (places_any, zero)
sizes_less = Sub (sizes, one)
room = Max (sizes_less, zero)
total_any = ReduceSum <keepdims = 1> (room, axis1)
total = Max (total_any, one)
product = Mul (room, num_places)
quota_down = Div (product, total)
quota_back = Mul (quota_down, total)
rest = Sub (product, quota_back)
twice_rest = Mul (rest, two)
above_half = Greater (twice_rest, total)
at_half = Equal (twice_rest, total)
parity = Mod (quota_down, two)
is_odd = Equal (parity, one)
half_up = And (at_half, is_odd)
goes_up = Or (above_half, half_up)
up_ones = Cast <to = 7> (goes_up)
quota_rounded = Add (quota_down, up_ones)
quota_total = ReduceSum <keepdims = 1> (quota_rounded, axis1)
missing = Sub (num_places, quota_total)
excess = Neg (missing)
rising_sums, rising = TopK <axis = 1, largest = 0, sorted = 1> (sums, num_clusters)
falling_sums, falling = TopK <axis = 1, largest = 1, sorted = 1> (sums, num_clusters)
rising_sorted, rising_place = TopK <axis = 1, largest = 0, sorted = 1> (rising, num_clusters)
falling_sorted, falling_place = TopK <axis = 1, largest = 0, sorted = 1> (falling, num_clusters)
can_give = Less (quota_rounded, room)
can_give_ones = Cast <to = 7> (can_give)
give_sorted = GatherElements <axis = 1> (can_give_ones, rising)
give_count = CumSum (give_sorted, one)
give_within = LessOrEqual (give_count, missing)
give_within_ones = Cast <to = 7> (give_within)
given_sorted = Mul (give_sorted, give_within_ones)
given = GatherElements <axis = 1> (given_sorted, rising_place)
can_take = Greater (quota_rounded, zero)
can_take_ones = Cast <to = 7> (can_take)
take_sorted = GatherElements <axis = 1> (can_take_ones, falling)
take_count = CumSum (take_sorted, one)
take_within = LessOrEqual (take_count, excess)
take_within_ones = Cast <to = 7> (take_within)
taken_sorted = Mul (take_sorted, take_within_ones)
taken = GatherElements <axis = 1> (taken_sorted, falling_place)
quota_given = Add (quota_rounded, given)
quota = Sub (quota_given, taken)
"""

_GROUPS = """
score_sorted, by_score = TopK <axis = 1, largest = 0, sorted = 1> (scores_fp32, num_visual)
label_by_score = GatherElements <axis = 1> (labels_BV, by_score)
label_sorted, by_label = TopK <axis = 1, largest = 0, sorted = 1> (label_by_score, num_visual)
by_cluster = GatherElements <axis = 1> (by_score, by_label)
cluster_sorted, cluster_place = TopK <axis = 1, largest = 0, sorted = 1> (by_cluster, num_visual)
sizes_before = CumSum <exclusive = 1> (sizes, one)
token_start = GatherElements <axis = 1> (sizes_before, labels_BV)
token_rank = Sub (cluster_place, token_start)
token_quota = GatherElements <axis = 1> (quota, labels_BV)
alone = Less (token_rank, token_quota)
alone_ones = Cast <to = 7> (alone)
token_cluster_rank = GatherElements <axis = 1> (rising_place, labels_BV)
last_group = Sub (num_kept, one)
cluster_group = Min (token_cluster_rank, last_group)
alone_count = CumSum (alone_ones, one)
alone_after = Add (alone_count, num_present)
alone_group = Sub (alone_after, one)
group_BV = Where (alone, alone_group, cluster_group)
"""

_MIDDLES = """
group_sorted, by_group = TopK <axis = 1, largest = 0, sorted = 1> (group_BV, num_visual)
batch = Shape <start = 0, end = 1> (labels)
edge_shape = Concat <axis = 0> (batch, axis1)
before_first = ConstantOfShape <value = int64[1] {-1}> (edge_shape)
padded = Concat <axis = 1> (before_first, group_sorted)
group_before = Slice (padded, axis0, num_visual, axis1)
continues = Equal (group_sorted, group_before)
continues_ones = Cast <to = 7> (continues)
num_visual_scalar = Squeeze (num_visual)
place_V = Range (zero, num_visual_scalar, one)
far = Mul (continues_ones, num_visual)
start_key = Add (place_V, far)
starts, starts_place = TopK <axis = 1, largest = 0, sorted = 1> (start_key, num_kept)
after_last = Expand (num_visual, edge_shape)
starts_padded = Concat <axis = 1> (starts, after_last)
end = Constant <value_ints = [9223372036854775807]> ()
stops = Slice (starts_padded, axis1, end, axis1)
group_size = Sub (stops, starts)
half_size = Div (group_size, two)
middle_place = Add (starts, half_size)
middles = GatherElements <axis = 1> (by_group, middle_place)
kept_visual, row_group = TopK <axis = 1, largest = 0, sorted = 1> (middles, num_kept)
row_size = GatherElements <axis = 1> (group_size, row_group)
"""

_ASSIGNMENT = """
group_row = Unsqueeze (group_BV, axis1)
row_column = Unsqueeze (row_group, axis2)
member_BRV = Equal (group_row, row_column)
member_fp32 = Cast <to = 1> (member_BRV)
row_size_fp32 = Cast <to = 1> (row_size)
row_size_column = Unsqueeze (row_size_fp32, axis2)
shares = Div (member_fp32, row_size_column)
mean_value = Constant <value_int: int = @mean> ()
not_mean = Equal (mean_value, zero)
row_alone = GatherElements <axis = 1> (alone_ones, kept_visual)
row_merged = Equal (row_alone, zero)
row_doubled = And (row_merged, not_mean)
middle_weight_row = Cast <to = 1> (row_doubled)
middle_weight = Unsqueeze (middle_weight_row, axis2)
middle_column = Unsqueeze (kept_visual, axis2)
is_middle = Equal (place_V, middle_column)
is_middle_fp32 = Cast <to = 1> (is_middle)
middle_part = Mul (is_middle_fp32, middle_weight)
assignment = Add (shares, middle_part)
num_positions = Shape <start = 1, end = 2> (sequence)
"""

_BODY = _SIZES + _QUOTAS + _GROUPS + _MIDDLES + _ASSIGNMENT + onnx_text.AFTER_DROP


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [onnx_text.function(CLUSTER_MERGE_PLAN, _BODY, opset_version)]
