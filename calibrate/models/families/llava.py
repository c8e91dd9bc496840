"""LLaVA-1.5: a CLIP tower with a class token, an MLP projector, a Llama-like language model, one tile for each
image."""

from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.layout import TokenLayout
from vitcop.calibrate.models.families.tiles import TileFamily, expand, stacked, whole_tiles

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor


class LlavaFamily(TileFamily):
    """`LlavaForConditionalGeneration` with a CLIP tower."""

    name = "llava"
    architectures = ("LlavaForConditionalGeneration",)
    class_token = True

    def check(self) -> None:
        """The architecture also serves Pixtral, SigLIP and other towers and language models; those are refused."""
        self.require(vision_config__model_type="clip_vision_model", vision_feature_select_strategy="default")
        self.check_decoder("llama")
        self.check_tiles()

    @property
    def num_visual(self) -> int:
        return self.side**2

    def projector(self, model: "nn.Module") -> "nn.Module":
        return model.model.multi_modal_projector

    def visual_features(self, model: "nn.Module", model_inputs: "dict[str, Tensor]") -> "list[list[Tensor]]":
        from torch import cat

        # One entry for each image, each [N,H].
        return [[cat(list(model.model.get_image_features(**model_inputs).pooler_output))]]

    def process(
        self, processor: "Processor", text: str, images: "list[Image]", videos: "list[list[Image]]"
    ) -> tuple[str, dict[str, Any]]:
        word, _ = self.placeholders(processor)
        pixels = stacked(processor.image_processor(images=images)["pixel_values"])
        return expand(text, word, [self.num_visual] * len(images)), {"pixel_values": pixels}

    def layouts(self, model_inputs: dict[str, np.ndarray]) -> tuple[TokenLayout, None]:
        return whole_tiles(len(model_inputs["pixel_values"]), self.side), None
