"""Qwen3-VL: the stock model, fed with pruned images. An embedding holds all its feature planes side by side."""

from tensorrt_llm._torch.models.modeling_qwen3vl import Qwen3VLInputProcessorBase, Qwen3VLModel
from tensorrt_llm._torch.models.modeling_utils import register_auto_model
from tensorrt_llm.inputs.registry import MULTIMODAL_PLACEHOLDER_REGISTRY, register_input_processor
from vitcop_model.pruning import PruningInputProcessor


class PrunedQwen3VLInputProcessor(PruningInputProcessor, Qwen3VLInputProcessorBase):
    """Images become pruned embeddings here, on the way in."""


@register_auto_model("Qwen3VLForConditionalGeneration")
@register_input_processor(
    PrunedQwen3VLInputProcessor,
    model_type="qwen3_vl",
    placeholder_metadata=MULTIMODAL_PLACEHOLDER_REGISTRY.get_placeholder_metadata("qwen3_vl"),
)
class PrunedQwen3VLModel(Qwen3VLModel):
    """The stock model: it reads embeddings and positions from the request."""
