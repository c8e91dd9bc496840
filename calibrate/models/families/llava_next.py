"""LLaVA-NeXT (LLaVA-1.6): a CLIP tower with a class token, any-resolution tiles, an MLP projector, a Llama-like
language model."""

from typing import TYPE_CHECKING

from vitcop.calibrate.models.families.anyres import AnyresFamily
from vitcop.calibrate.models.families.mixture import Mixture, mixed, with_newlines

if TYPE_CHECKING:
    from torch import Tensor, nn


class LlavaNextFamily(AnyresFamily):
    """`LlavaNextForConditionalGeneration` with a CLIP tower."""

    name = "llava_next"
    architectures = ("LlavaNextForConditionalGeneration",)
    class_token = True

    def check(self) -> None:
        """The architecture also serves other towers and language models; those are refused."""
        self.require(
            vision_config__model_type="clip_vision_model",
            vision_feature_select_strategy="default",
        )
        self.check_decoder("llama", "mistral", "qwen2")
        self.check_anyres()

    def image_tokens(self, height: int, width: int, alone: bool) -> Mixture:
        base, grid = (
            Mixture.of(patches, self.patches_per_token) for patches in (self.base_map(), self.grid_map(height, width))
        )
        return Mixture.join([base, grid.lines()])

    def assemble(
        self, model: "nn.Module", rows: "tuple[Tensor, ...]", inputs: "dict[str, Tensor]"
    ) -> "tuple[Tensor, ...]":
        features = self.projector(model)(mixed(rows[0], inputs))
        return (with_newlines(features, inputs, model.model.image_newline),)
