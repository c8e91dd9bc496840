"""Qwen2.5-VL: most blocks of the vision tower look within windows, and the positions of a video follow its time."""

from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.base import InputSpec
from vitcop.calibrate.models.families.qwen_media import FPS
from vitcop.calibrate.models.families.qwen_tables import padded_segments, windows
from vitcop.calibrate.models.families.qwen_vision import QwenVisionFamily
from vitcop.calibrate.models.families.three_axes import Block

if TYPE_CHECKING:
    from torch import Tensor


class Qwen25VLFamily(QwenVisionFamily):
    """`Qwen2_5_VLForConditionalGeneration`."""

    name = "qwen2_5_vl"
    architectures = ("Qwen2_5_VLForConditionalGeneration",)

    @property
    def num_visual(self) -> int:
        """The encoder has no size of its own; this is an image of 24×24 tokens (672 pixels a side with patches of
        14)."""
        return 24 * 24

    @property
    def window_units(self) -> int:
        """Units along the side of a window of the vision tower."""
        vision = self.config.vision_config
        return vision.window_size // self.merge // vision.patch_size

    @property
    def window_slots(self) -> int:
        """Patches of a whole window."""
        return self.window_units**2 * self.patches_per_token

    def encoder_inputs(self) -> dict[str, InputSpec]:
        return super().encoder_inputs() | {
            "window_slots": InputSpec("int64", ("windows", self.window_slots)),
            "window_place": InputSpec("int64", ("units", self.patches_per_token)),
        }

    def segments(self, layer: int) -> tuple[str, str]:
        if layer in self.config.vision_config.fullatt_block_indexes:
            return super().segments(layer)
        return "window_slots", "window_place"

    def encoder_arrays(self, model_inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        frames = np.concatenate(self.frames(model_inputs))
        slots, place = padded_segments(windows(frames, self.window_units), self.patches_per_token, self.window_slots)
        return super().encoder_arrays(model_inputs) | {"window_slots": slots, "window_place": place}

    def patch_vectors(self, vectors: "list[Tensor]", vision_inputs: "dict[str, Tensor]") -> "Tensor":
        # The model keeps its patches window by window, in blocks of full attention too.
        number = vision_inputs["window_place"].flatten().argsort().argsort()
        return super().patch_vectors(vectors, vision_inputs)[number]

    def video_times(self, num_videos: int) -> dict[str, np.ndarray]:
        # Without anything known of its frames transformers' processor takes a video for one of 24 frames a second.
        seconds = self.config.vision_config.temporal_patch_size / FPS
        return {"second_per_grid_ts": np.full(num_videos, seconds, np.float32)}

    def video_blocks(self, model_inputs: dict[str, np.ndarray]) -> list[Block]:
        grids = model_inputs.get("video_grid_thw", np.empty((0, 3), np.int64)) // (1, self.merge, self.merge)
        seconds = model_inputs.get("second_per_grid_ts", np.empty(0, np.float32))
        intervals = self.config.vision_config.tokens_per_second * seconds
        return [Block(tuple(grid), interval) for grid, interval in zip(grids.tolist(), intervals, strict=True)]
