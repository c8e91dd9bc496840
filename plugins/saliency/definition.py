"""Definition of VisionSaliency."""

from vitcop.plugins.spec import OpSpec

VISION_SALIENCY = OpSpec(
    torch_name="vision_saliency",
    onnx_name="VisionSaliency",
    inputs=("q_cls", "keys"),
    attributes=(("scale", float),),
    outputs=("saliency",),
)
"""q_cls [B,Nh,D], keys [B,Nh,1+N,D] with the class token first -> saliency fp32 [B,N]."""

SPECS = (VISION_SALIENCY,)
