"""The host's side of Qwen2.5-VL and Qwen3-VL: prompts with images and videos of any size, their index tables and their
three-axis positions."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from vitcop.calibrate.models.families.base import Family
from vitcop.calibrate.models.families.layout import TokenLayout
from vitcop.calibrate.models.families.qwen_media import frame_size, image_patches, video_patches
from vitcop.calibrate.models.families.qwen_tables import (
    frame_grids,
    padded_segments,
    patch_places,
    unit_layout,
    unit_places,
)
from vitcop.calibrate.models.families.three_axes import Block, three_axis_positions
from vitcop.calibrate.models.families.tiles import expand

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitcop.calibrate.models.processor import Processor
    from vitcop.calibrate.models.prompt import PromptBatch

_KINDS = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))


class QwenPrompts(Family):
    """Images and videos become units, the patches of one visual token; images come before videos."""

    num_axes = 3

    @property
    def merge(self) -> int:
        """Patches along the side of a unit."""
        return self.config.vision_config.spatial_merge_size

    @property
    def patches_per_token(self) -> int:
        return self.merge**2

    @property
    def video_token(self) -> int:
        return self.config.video_token_id

    def process(
        self, processor: "Processor", text: str, images: "list[Image]", videos: "list[list[Image]]"
    ) -> tuple[str, dict[str, np.ndarray]]:
        image, video = (processor.tokenizer.convert_ids_to_tokens(token) for token in self.visual_tokens)
        inputs: dict[str, np.ndarray] = {}
        if images:
            inputs["pixel_values"], grids = image_patches(processor, images)
            inputs["image_grid_thw"] = grids
            text = expand(text, image, [self.num_tokens(grid) for grid in grids])
        if videos:
            films = [self._film(processor, frames) for frames in videos]
            inputs["pixel_values_videos"], grids = (np.concatenate(each) for each in zip(*films, strict=True))
            inputs |= {"video_grid_thw": grids} | self.video_times(len(grids))
            words = [self.video_text(processor, video, *each) for each in zip(grids, map(len, videos), strict=True)]
            text = expand(text, video, [], words)
        return text, inputs

    def _film(self, processor: "Processor", frames: "list[Image]") -> tuple[np.ndarray, np.ndarray]:
        vision = self.config.vision_config
        size = self.video_size(frame_size(processor), len(frames))
        return video_patches(
            processor, frames, channels=vision.in_channels, temporal=vision.temporal_patch_size, size=size
        )

    def num_tokens(self, grid: np.ndarray) -> int:
        """Visual tokens of a grid in patches."""
        return int(grid.prod()) // self.patches_per_token

    def video_size(self, size: dict[str, int], num_frames: int) -> dict[str, int]:
        """Least and greatest number of pixels of each frame of a video."""
        return size

    def video_times(self, num_videos: int) -> dict[str, np.ndarray]:
        """What the model takes to know how fast the frames of its videos follow each other."""
        return {}

    def video_text(self, processor: "Processor", word: str, grid: np.ndarray, num_frames: int) -> str:
        """What stands in the prompt for a video: its grid int64 [3], and the frames that it was made of."""
        return word * self.num_tokens(grid)

    @abstractmethod
    def video_blocks(self, model_inputs: dict[str, np.ndarray]) -> list[Block]:
        """The parts of all videos whose tokens stand together, in order."""

    def frames(self, model_inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """int64 [F,2]: (rows, columns) in units of each frame of the images, and of the videos."""
        none = np.empty((0, 3), np.int64)
        images, videos = (frame_grids(model_inputs.get(name, none), self.merge) for _, name in _KINDS)
        return images, videos

    def encoder_arrays(self, model_inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        frames = np.concatenate(self.frames(model_inputs))
        slots, place = padded_segments(unit_places(frames)[0], self.patches_per_token)
        pixels = np.concatenate([model_inputs[name] for name, _ in _KINDS if name in model_inputs])
        return {
            "pixel_values": pixels.reshape(len(place), self.patches_per_token, -1),
            "patch_places": patch_places(frames, self.merge),
            "image_slots": slots,
            "image_place": place,
        }

    def layouts(self, model_inputs: dict[str, np.ndarray]) -> tuple[TokenLayout | None, TokenLayout | None]:
        images, videos = self.frames(model_inputs)
        return unit_layout(images, self.merge, before=images[:0]), unit_layout(videos, self.merge, before=images)

    def positions(self, batch: "PromptBatch") -> np.ndarray:
        images, _ = self.frames(batch.model_inputs)
        blocks = {
            self.image_token: [Block((1, rows, columns)) for rows, columns in images.tolist()],
            self.video_token: self.video_blocks(batch.model_inputs),
        }
        return three_axis_positions(batch, blocks)
