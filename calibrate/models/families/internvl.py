"""InternVL3 (Hugging Face layout): InternViT with a class token, tiles with a thumbnail, pixel shuffle (a token is made
of 2×2 patches), and videos whose frames are tiles."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.layout import TokenLayout, grid_places
from vitcop.calibrate.models.families.tiles import TileFamily, stacked
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor


class InternVLFamily(TileFamily):
    """`InternVLForConditionalGeneration`; in a prompt, a frame of a video is an image of one tile."""

    name = "internvl"
    architectures = ("InternVLForConditionalGeneration",)
    class_token = True

    def check(self) -> None:
        self.require(
            vision_config__model_type="internvl_vision", vision_feature_select_strategy="default", downsample_ratio=0.5
        )
        self.check_decoder("qwen2", "qwen3", "llama")
        self.check_tiles()
        if self.side % 2:
            raise InputError(
                f"config.json: {self.side} patches a side cannot be shuffled in pairs; give an even number"
            )

    @property
    def num_visual(self) -> int:
        return (self.side // 2) ** 2

    @property
    def patches_per_token(self) -> int:
        return 4

    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        return model.model.vision_tower.encoder.layer[self.feature_layer].attention

    def projector(self, model: "nn.Module") -> "nn.Module":
        return model.model.multi_modal_projector

    def visual_features(self, model: "nn.Module", model_inputs: "dict[str, Tensor]") -> "list[list[Tensor]]":
        return [[model.model.get_image_features(**model_inputs).pooler_output.flatten(0, 1)]]

    def tower_states(self, model: "nn.Module", pixel_values: "Tensor") -> "Tensor":
        last = self.config.vision_feature_layer == -1
        output = model.model.vision_tower(pixel_values=pixel_values, output_hidden_states=not last, return_dict=True)
        # The last layer's output has one more norm behind it, which hidden_states lacks.
        states = output.last_hidden_state if last else output.hidden_states[self.feature_layer + 1]
        return states[:, 1:]

    def rows(self, states: "Tensor") -> "Tensor":
        """Pixel shuffle: the four patches of a token side by side, [T,N,Hv] -> [T·N/4,4·Hv]."""
        half, width = self.side // 2, states.shape[-1]
        blocks = states.reshape(-1, half, 2, half, 2, width).permute(0, 1, 3, 2, 4, 5)
        return blocks.reshape(-1, 4 * width)

    def placeholders(self, processor: "Processor") -> tuple[str, str | None]:
        return super().placeholders(processor)[0], getattr(processor.tokenizer, "video_token", None)

    def process(
        self, processor: "Processor", text: str, images: "list[Image]", videos: "list[list[Image]]"
    ) -> tuple[str, dict[str, Any]]:
        context, film = self.placeholders(processor)
        begin, end = processor.tokenizer.start_image_token, processor.tokenizer.end_image_token
        pictures, films, pixels = iter(images), iter(videos), []

        def tiles(image: "Image", **settings: Any) -> str:
            pixels.append(stacked(processor.image_processor(images=[image], **settings)["pixel_values"]))
            return begin + context * (self.num_visual * len(pixels[-1])) + end

        def fill(found: re.Match[str]) -> str:
            if found.group() == context:
                return tiles(next(pictures), crop_to_patches=True)
            frames = [tiles(frame, crop_to_patches=False) for frame in next(films)]
            return "\n".join(f"Frame{i}: {frame}" for i, frame in enumerate(frames, start=1))

        words = "|".join(re.escape(word) for word in (context, film) if word)
        return re.sub(words, fill, text), {"pixel_values": np.concatenate(pixels)}

    def layouts(self, model_inputs: dict[str, np.ndarray]) -> tuple[TokenLayout, None]:
        tiles, half = len(model_inputs["pixel_values"]), self.side // 2
        row, column = np.divmod(np.arange(half * half), half)
        corner = 2 * row * self.side + 2 * column
        block = corner[:, None] + np.array([0, 1, self.side, self.side + 1])
        starts = np.arange(tiles) * self.side**2
        layout = TokenLayout(
            patches=(starts[:, None, None] + block).reshape(-1, 4),
            grid=np.tile(grid_places(half, half), (tiles, 1)),
            group=np.repeat(np.arange(tiles), half * half),
            tables={"visual_rows": np.arange(tiles * half * half)},
        )
        return layout, None
