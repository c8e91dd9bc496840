"""From the text of an ONNX function body to a FunctionProto, and the pieces of text that several ops share.

Bodies are written in ONNX's own text format. Every attribute of the op's definition can be referred to as `@name`; the
attributes `plugin_namespace` and `plugin_version` stand on the node only, for TensorRT.
"""

import onnx
import onnx.parser

from vitcop.plugins.spec import DOMAIN, OpSpec

MIN_OPSET = 18
"""The oldest opset that the bodies are valid in (reductions with axes as an input)."""


def function(spec: OpSpec, body: str, opset_version: int) -> onnx.FunctionProto:
    """The model-local function of `spec`. `body`: the statements, which assign every name in `spec.outputs`.

    `opset_version` must be that of the model: ONNX Runtime refuses a function with another one.
    """
    assert opset_version >= MIN_OPSET, f"the bodies need opset {MIN_OPSET}, the model has {opset_version}"
    attributes = ", ".join(name for name, _ in spec.attributes)
    head = f'<opset_import: ["": {opset_version}], domain: "{DOMAIN}">\n{spec.onnx_name}'
    head += f" <{attributes}>" if attributes else ""
    signature = f"({', '.join(spec.inputs)}) => ({', '.join(spec.outputs)})"
    return onnx.parser.parse_function(f"{head} {signature} {{\n{body}\n}}")


CONSTANTS = """
zero = Constant <value_int = 0> ()
one = Constant <value_int = 1> ()
axis0 = Constant <value_ints = [0]> ()
axis1 = Constant <value_ints = [1]> ()
axis2 = Constant <value_ints = [2]> ()
"""
"""Scalars `zero`, `one` and one-element lists `axis0`, `axis1`, `axis2`, all int64."""

KEEP_COUNT = """
num_visual = Shape <start = 1, end = 2> (visual_index)
keep_num_value = Constant <value_int: int = @keep_num> ()
keep_den_value = Constant <value_int: int = @keep_den> ()
keep_scaled = Mul (num_visual, keep_num_value)
keep_share = Div (keep_scaled, keep_den_value)
keep_share_or_one = Max (keep_share, one)
num_kept = Min (num_visual, keep_share_or_one)
"""
"""visual_index [B,V] -> `num_visual`, `num_kept` [1]: spec.keep_count."""

PICK = """
best_scores, picked = TopK <axis = 1, largest: int = @largest, sorted = 1> (scores_fp32, num_kept)
kept_visual, kept_order = TopK <axis = 1, largest = 0, sorted = 1> (picked, num_kept)
"""
"""`scores_fp32` [B,V] -> `kept_visual` [B,K]: selection.pick. TopK gives equal values in order of their index.

No limit on V or K is in here, and ONNX Runtime has none. TensorRT's own TopK takes K below 3840 only: where a body
stands in for the plugin there, fewer tokens than that may be kept, and because of AFTER_DROP fewer positions left.
"""

AFTER_DROP = """
num_rows = Shape <start = 0, end = 1> (visual_index)
shape_BS = Concat <axis = 0> (num_rows, num_positions)
shape_BV = Shape (visual_index)
shape_BK = Shape (kept_visual)
ones_BS = ConstantOfShape <value = int64[1] {1}> (shape_BS)
zeros_BV = ConstantOfShape <value = int64[1] {0}> (shape_BV)
ones_BK = ConstantOfShape <value = int64[1] {1}> (shape_BK)
kept_old = GatherElements <axis = 1> (visual_index, kept_visual)
text_BS = ScatterElements <axis = 1> (ones_BS, visual_index, zeros_BV)
stays_BS = ScatterElements <axis = 1> (text_BS, kept_old, ones_BK)
stays_count = CumSum (stays_BS, one)
new_place = GatherElements <axis = 1> (stays_count, kept_old)
new_visual_index = Sub (new_place, one)
last_position = Squeeze (num_positions)
positions_S = Range (zero, last_position, one)
dropped_BS = Sub (one, stays_BS)
dropped_far = Mul (dropped_BS, num_positions)
sort_key = Add (positions_S, dropped_far)
num_text = Sub (num_positions, num_visual)
num_left = Add (num_text, num_kept)
kept_positions, sorted_order = TopK <axis = 1, largest = 0, sorted = 1> (sort_key, num_left)
"""
"""selection.after_drop.

`kept_visual` [B,K], `visual_index` [B,V], `num_positions`, `num_visual`, `num_kept` [1] -> `kept_positions`,
`new_visual_index`.
"""
