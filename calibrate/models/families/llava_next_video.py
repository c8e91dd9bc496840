"""LLaVA-NeXT-Video: images as in LLaVA-NeXT; frames of a video are single tiles whose patches are pooled by squares
before the projector, without newlines."""

from vitcop.calibrate.models.families.llava_next import LlavaNextFamily
from vitcop.calibrate.models.families.mixture import Mixture
from vitcop.calibrate.models.families.tile_grids import tile_maps


class LlavaNextVideoFamily(LlavaNextFamily):
    """`LlavaNextVideoForConditionalGeneration` with a CLIP tower and average pooling."""

    name = "llava_next_video"
    architectures = ("LlavaNextVideoForConditionalGeneration",)
    crops_frames = True

    def check(self) -> None:
        """Pooling by maximum or convolution is no weighted sum of patches, and refused."""
        super().check()
        self.require(spatial_pool_mode="average")

    @property
    def video_token(self) -> int:
        return int(self.config.video_token_id)

    @property
    def patches_per_token(self) -> int:
        return self.config.spatial_pool_stride**2

    def video_tokens(self, frames: int) -> Mixture:
        return Mixture.pooled(tile_maps(frames, self.side), self.config.spatial_pool_stride)
