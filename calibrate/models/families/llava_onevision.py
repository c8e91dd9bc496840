"""LLaVA-OneVision: a SigLIP tower without a class token, any-resolution tiles for an image that is alone in its prompt,
a Qwen2 language model.

Big feature maps, and those of video frames, are made smaller bilinearly after the projector; here a token has four rows
and their weights.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.anyres import AnyresFamily
from vitcop.calibrate.models.families.base import Encoding
from vitcop.calibrate.models.families.mixture import NEWLINE, Mixture, mixed, with_newlines
from vitcop.calibrate.models.families.tile_grids import tile_maps
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor

_ASPECT = "anyres_max_"
_SLACK = 1.1
"""How far the side of a feature map may be above its limit before it is made smaller; fixed in the model's code."""


class LlavaOnevisionFamily(AnyresFamily):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP tower."""

    name = "llava_onevision"
    architectures = ("LlavaOnevisionForConditionalGeneration",)
    patches_per_token = 4

    def check(self) -> None:
        """The architecture also serves other towers and language models; those are refused."""
        self.require(
            vision_config__model_type="siglip_vision_model",
            vision_feature_select_strategy="full",
        )
        self.check_decoder("qwen2")
        aspect = self.config.vision_aspect_ratio
        if not (aspect.startswith(_ASPECT) and aspect.removeprefix(_ASPECT).isdigit()):
            raise InputError(
                f"config.json: vision_aspect_ratio {aspect!r} is not supported for {self.name}; supported: "
                f"{_ASPECT}9 and other numbers"
            )
        self.check_anyres()

    @property
    def video_token(self) -> int:
        return int(self.config.video_token_id)

    def num_tiles(self, height: int, width: int, alone: bool) -> int:
        return super().num_tiles(height, width, alone) if alone else 1

    def image_tokens(self, height: int, width: int, alone: bool) -> Mixture:
        base = Mixture.of(self.base_map(), self.patches_per_token)
        if not alone:
            return Mixture.join([base, self._newline()])
        grid = self.grid_map(height, width)
        limit = int(self.config.vision_aspect_ratio.removeprefix(_ASPECT)) * self.side**2
        ratio = math.sqrt(grid.size / limit)
        if ratio > _SLACK:
            lines, columns = (int(size // ratio) for size in grid.shape)
            return Mixture.join([base, Mixture.bilinear(grid, lines, columns).lines()])
        return Mixture.join([base, Mixture.of(grid, self.patches_per_token).lines()])

    def video_tokens(self, frames: int) -> Mixture:
        half = math.ceil(self.side / 2)
        return Mixture.join([Mixture.bilinear(tile_maps(frames, self.side), half, half), self._newline()])

    def _newline(self) -> Mixture:
        return Mixture.of(np.array([NEWLINE]), self.patches_per_token)

    def image_inputs(self, processor: "Processor", images: "list[Image]") -> dict[str, np.ndarray]:
        # Nested by prompts: the image processor tiles an image only where it is alone.
        processed = processor.image_processor(images=[images], do_pad=False)
        return self.tiled(processed, len(images) == 1) | {"batch_num_images": np.array([len(images)])}

    def pictures(self, model_inputs: dict[str, np.ndarray]) -> list[tuple[int, int, bool]]:
        counts = model_inputs.get("batch_num_images", np.zeros(0, np.int64))
        alone = np.repeat(counts == 1, counts).tolist()
        return [(*size[:2], only) for size, only in zip(super().pictures(model_inputs), alone, strict=True)]

    def encode(self, model: "nn.Module", inputs: "dict[str, Tensor]") -> Encoding:
        """Rows are features of the language model already: what is mixed later comes out of the projector."""
        encoding = super().encode(model, inputs)
        return replace(encoding, rows=(self.projector(model)(encoding.rows[0]),))

    def assemble(
        self, model: "nn.Module", rows: "tuple[Tensor, ...]", inputs: "dict[str, Tensor]"
    ) -> "tuple[Tensor, ...]":
        return (with_newlines(mixed(rows[0], inputs), inputs, model.model.image_newline),)
