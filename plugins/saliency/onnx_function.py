"""ONNX function of VisionSaliency."""

import onnx

from vitcop.plugins import onnx_text
from vitcop.plugins.saliency.definition import VISION_SALIENCY

# keys times a column: the keys stay untransposed.
_BODY = (
    onnx_text.CONSTANTS
    + """
q_fp32 = Cast <to = 1> (q_cls)
keys_fp32 = Cast <to = 1> (keys)
last = Constant <value_ints = [-1]> ()
q_column = Unsqueeze (q_fp32, last)
products = MatMul (keys_fp32, q_column)
scale_value = Constant <value_float: float = @scale> ()
logits = Mul (products, scale_value)
attention = Softmax <axis = 2> (logits)
end = Constant <value_ints = [9223372036854775807]> ()
to_patches = Slice (attention, axis1, end, axis2)
over_heads = ReduceSum <keepdims = 0> (to_patches, axis1)
saliency = Squeeze (over_heads, last)
"""
)


def functions(opset_version: int) -> list[onnx.FunctionProto]:
    return [onnx_text.function(VISION_SALIENCY, _BODY, opset_version)]
