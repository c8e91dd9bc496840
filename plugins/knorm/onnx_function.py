"""ONNX functions of KNormScores and KNormSelect."""

import onnx

from vitcop.plugins import onnx_text
from vitcop.plugins.knorm.definition import KNORM_SCORES, KNORM_SELECT

# Norms of all S positions, then one gather of V numbers: cheaper than gathering keys.
_SCORES = (
    onnx_text.CONSTANTS
    + """
keys_fp32 = Cast <to = 1> (keys)
mean_norm_value = Constant <value_int: int = @mean_norm> ()
norms_first = Cast <to = 9> (mean_norm_value)
norms = If (norms_first) <
  then_branch = mean_of_norms () => (norms_of_heads) {
    head_axis = Constant <value_ints = [1]> ()
    dim_axis = Constant <value_ints = [3]> ()
    head_norms = ReduceL2 <keepdims = 0> (keys_fp32, dim_axis)
    norms_of_heads = ReduceMean <keepdims = 0> (head_norms, head_axis)
  },
  else_branch = norm_of_mean () => (norms_of_mean) {
    head_axis_2 = Constant <value_ints = [1]> ()
    dim_axis_2 = Constant <value_ints = [2]> ()
    mean_key = ReduceMean <keepdims = 0> (keys_fp32, head_axis_2)
    norms_of_mean = ReduceL2 <keepdims = 0> (mean_key, dim_axis_2)
  }
>
"""
)

_GATHER = "{name} = GatherElements <axis = 1> (norms, visual_index)\n"

_SELECT = (
    _SCORES
    + _GATHER.format(name="scores_fp32")
    + "num_positions = Shape <start = 2, end = 3> (keys)\n"
    + onnx_text.KEEP_COUNT
    + onnx_text.PICK
    + onnx_text.AFTER_DROP
)


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [
        onnx_text.function(KNORM_SCORES, _SCORES + _GATHER.format(name="scores"), opset_version),
        onnx_text.function(KNORM_SELECT, _SELECT, opset_version),
    ]
