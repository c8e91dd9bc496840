"""Qwen3-VL: features of several blocks of the vision tower enter the language model (DeepStack), a learned grid of
position embeddings is stretched over each image, and the frames of a video stand between timestamps."""

from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.base import InputSpec
from vitcop.calibrate.models.families.qwen_media import FPS
from vitcop.calibrate.models.families.qwen_tables import bilinear_taps
from vitcop.calibrate.models.families.qwen_vision import QwenVisionFamily
from vitcop.calibrate.models.families.three_axes import Block

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor


class Qwen3VLFamily(QwenVisionFamily):
    """`Qwen3VLForConditionalGeneration`."""

    name = "qwen3_vl"
    architectures = ("Qwen3VLForConditionalGeneration",)

    @property
    def side(self) -> int:
        """Position embeddings along the side of the learned grid."""
        return isqrt(self.config.vision_config.num_position_embeddings)

    @property
    def num_visual(self) -> int:
        return (self.side // self.merge) ** 2

    @property
    def plane_layers(self) -> list[int]:
        return sorted(self.config.vision_config.deepstack_visual_indexes)

    def encoder_inputs(self) -> dict[str, InputSpec]:
        return super().encoder_inputs() | {
            "position_taps": InputSpec("int64", ("units", self.patches_per_token, 4)),
            "position_weights": InputSpec("float32", ("units", self.patches_per_token, 4)),
        }

    def encoder_arrays(self, model_inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        taps, weights = bilinear_taps(np.concatenate(self.frames(model_inputs)), self.merge, self.side)
        return super().encoder_arrays(model_inputs) | {"position_taps": taps, "position_weights": weights}

    def embedded(self, visual: "nn.Module", patches: "Tensor", inputs: "dict[str, Tensor]") -> "Tensor":
        around = visual.pos_embed(inputs["position_taps"])
        # Summed in fp32, the type of the weights, as the model does.
        return patches + (around * inputs["position_weights"].unsqueeze(3)).sum(2).to(patches.dtype)

    def mergers(self, visual: "nn.Module") -> "list[nn.Module]":
        indexes = list(self.config.vision_config.deepstack_visual_indexes)
        return [visual.merger, *(visual.deepstack_merger_list[indexes.index(layer)] for layer in self.plane_layers)]

    def video_size(self, size: dict[str, int], num_frames: int) -> dict[str, int]:
        # Here the bounds are for the pixels of all frames together, padded to whole temporal patches.
        temporal = self.config.vision_config.temporal_patch_size
        padded = max(round(num_frames / temporal), 1) * temporal
        return {name: pixels // padded for name, pixels in size.items()}

    def video_text(self, processor: "Processor", word: str, grid: np.ndarray, num_frames: int) -> str:
        """Each temporal patch behind its time, the mean of its first and its last frame's, at 24 frames a second, which
        is what transformers' processor takes for a video of which only frames are known."""
        temporal = self.config.vision_config.temporal_patch_size
        ids = (self.config.vision_start_token_id, self.config.vision_end_token_id)
        start, end = (processor.tokenizer.convert_ids_to_tokens(token) for token in ids)
        tokens = word * self.num_tokens(grid[1:])
        firsts = range(0, num_frames, temporal)
        lasts = [min(first + temporal, num_frames) - 1 for first in firsts]
        times = [(first / FPS + last / FPS) / 2 for first, last in zip(firsts, lasts, strict=True)]
        return "".join(f"<{time:.1f} seconds>{start}{tokens}{end}" for time in times)

    def video_blocks(self, model_inputs: dict[str, np.ndarray]) -> list[Block]:
        # Timestamps stand between the frames, and tell the time in the place of positions.
        return [Block((1, rows, columns)) for rows, columns in self.frames(model_inputs)[1].tolist()]
