"""Qwen2.5-VL: the stock model, fed with pruned images."""

from tensorrt_llm._torch.models.modeling_qwen2vl import Qwen2_5_VLModel, Qwen2_5VLInputProcessorBase
from tensorrt_llm._torch.models.modeling_utils import register_auto_model
from tensorrt_llm.inputs.registry import MULTIMODAL_PLACEHOLDER_REGISTRY, register_input_processor
from vitcop_model.pruning import PruningInputProcessor


class PrunedQwen2_5_VLInputProcessor(PruningInputProcessor, Qwen2_5VLInputProcessorBase):
    """Images become pruned embeddings here, on the way in."""


@register_auto_model("Qwen2_5_VLForConditionalGeneration")
@register_input_processor(
    PrunedQwen2_5_VLInputProcessor,
    model_type="qwen2_5_vl",
    placeholder_metadata=MULTIMODAL_PLACEHOLDER_REGISTRY.get_placeholder_metadata("qwen2_5_vl"),
)
class PrunedQwen2_5_VLModel(Qwen2_5_VLModel):
    """The stock model: it reads embeddings and positions from the request."""
