"""Any-resolution tiles: an image becomes a base tile, which shows the whole of it, and a grid of tiles of it enlarged;
the grid's feature map is cut to the image's aspect ratio, and each of its lines ends in a newline vector.

The grid depends on the image's size alone, so the host computes it and the graph sees tables.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.base import InputSpec
from vitcop.calibrate.models.families.frames import video_pixels
from vitcop.calibrate.models.families.layout import TokenLayout
from vitcop.calibrate.models.families.mixture import Mixture, mixture_inputs
from vitcop.calibrate.models.families.tile_grids import grid_map, tile_grid, tile_maps, without_padding
from vitcop.calibrate.models.families.tiles import TileFamily, expand
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor


class AnyresFamily(TileFamily):
    """`get_image_features` takes `pixel_values` [T,3,h,w] of all tiles of all images, and `image_sizes` int64 [n,2]
    (height, width); `get_video_features` takes `pixel_values_videos` [videos,F,3,h,w]. In the graph frames are tiles
    that follow those of the images."""

    crops_frames = False
    """Whether the middle of a frame is cut out, where the video settings do not say."""

    def check_anyres(self) -> None:
        """Raises InputError for grids that are not of whole tiles."""
        self.check_tiles()
        odd = [size for size in self.config.image_grid_pinpoints if any(edge % self.image_size for edge in size)]
        if odd:
            raise InputError(
                f"config.json: image_grid_pinpoints {odd[0]} is not made of whole tiles of {self.image_size} pixels"
            )

    # -- tokens of an image or a video, counted from its first tile ---------------------------------------------------

    @abstractmethod
    def image_tokens(self, height: int, width: int, alone: bool) -> Mixture:
        """Tokens of one image; `alone` where it is the only one of its prompt."""

    def video_tokens(self, frames: int) -> Mixture:
        """Tokens of one video."""
        raise InputError(f"models of family {self.name} take no video")

    def num_tiles(self, height: int, width: int, alone: bool) -> int:
        """Tiles of one image, the base tile included."""
        rows, columns = self.tile_grid(height, width)
        return 1 + rows * columns

    def tile_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the tiles beside the base tile."""
        return tile_grid(height, width, self.config.image_grid_pinpoints, self.image_size)

    def base_map(self) -> np.ndarray:
        """int64 [side,side]: the patches of the first tile."""
        return tile_maps(1, self.side)[0]

    def grid_map(self, height: int, width: int) -> np.ndarray:
        """int64 [h,w]: the patches of the other tiles as one map, cut to the image."""
        rows, columns = self.tile_grid(height, width)
        return without_padding(grid_map(tile_maps(1 + rows * columns, self.side)[1:], rows, columns), height, width)

    # -- the rest of what a family gives ------------------------------------------------------------------------------

    @property
    def num_visual(self) -> int:
        return len(self.image_tokens(self.image_size, self.image_size, True))

    def token_inputs(self) -> dict[str, InputSpec]:
        return mixture_inputs(self.patches_per_token)

    def projector(self, model: "nn.Module") -> "nn.Module":
        return model.model.multi_modal_projector

    def visual_features(self, model: "nn.Module", model_inputs: "dict[str, Tensor]") -> "list[list[Tensor]]":
        from torch import cat

        inputs, found = dict(model_inputs), []
        videos = inputs.pop("pixel_values_videos", None)
        if inputs:
            found.append(model.model.get_image_features(**inputs))
        if videos is not None:
            found.append(model.model.get_video_features(videos))
        return [[cat([each.reshape(-1, each.shape[-1]) for each in kind.pooler_output])] for kind in found]

    def image_inputs(self, processor: "Processor", images: "list[Image]") -> dict[str, np.ndarray]:
        """What the model takes for the images of one prompt."""
        return self.tiled(processor.image_processor(images=images, do_pad=False), len(images) == 1)

    def tiled(self, processed: Any, alone: bool) -> dict[str, np.ndarray]:
        """The image processor's tiles [t,3,h,w] of each image of a prompt, as one array, with the image sizes.

        Raises InputError where they are not the tiles that the model expects.
        """
        sizes = np.asarray(processed["image_sizes"], dtype=np.int64).reshape(-1, 2)
        images = [np.asarray(tiles, dtype=np.float32) for tiles in processed["pixel_values"]]
        channels, edge = self.config.vision_config.num_channels, self.image_size
        for (height, width), tiles in zip(sizes.tolist(), images, strict=True):
            wanted = (self.num_tiles(height, width, alone), channels, edge, edge)
            if tiles.shape != wanted:
                raise InputError(
                    f"preprocessor_config.json: an image of {width}x{height} pixels became tiles {tiles.shape}, the "
                    f"model expects {wanted}: size and image_grid_pinpoints must be as in config.json"
                )
        return {"pixel_values": np.concatenate(images), "image_sizes": sizes}

    def pictures(self, model_inputs: dict[str, np.ndarray]) -> list[tuple[int, int, bool]]:
        """(height, width, alone) of each image."""
        return [(height, width, True) for height, width in model_inputs.get("image_sizes", np.zeros((0, 2))).tolist()]

    def process(
        self, processor: "Processor", text: str, images: "list[Image]", videos: "list[list[Image]]"
    ) -> tuple[str, dict[str, np.ndarray]]:
        inputs: dict[str, np.ndarray] = {}
        if images:
            inputs |= self.image_inputs(processor, images)
            word = processor.tokenizer.convert_ids_to_tokens(self.image_token)
            text = expand(text, word, [len(self.image_tokens(*picture)) for picture in self.pictures(inputs)])
        if videos:
            inputs["pixel_values_videos"] = video_pixels(processor, videos, self.image_size, crop=self.crops_frames)
            word = processor.tokenizer.convert_ids_to_tokens(self.video_token)
            text = expand(text, word, [len(self.video_tokens(len(frames))) for frames in videos])
        return text, inputs

    def layouts(self, model_inputs: dict[str, np.ndarray]) -> tuple[TokenLayout | None, TokenLayout | None]:
        first, kinds = 0, (list[Mixture](), list[Mixture]())
        for picture in self.pictures(model_inputs):
            kinds[0].append(self.image_tokens(*picture).shifted(first * self.side**2))
            first += self.num_tiles(*picture)
        for frames in model_inputs.get("pixel_values_videos", ()):
            kinds[1].append(self.video_tokens(len(frames)).shifted(first * self.side**2))
            first += len(frames)
        images, videos = (Mixture.join(tokens).layout(self.side) if tokens else None for tokens in kinds)
        return images, videos

    def encoder_arrays(self, model_inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = [model_inputs[name] for name in ("pixel_values", "pixel_values_videos") if name in model_inputs]
        return {"pixel_values": np.concatenate([each.reshape(-1, *each.shape[-3:]) for each in pixels])}
