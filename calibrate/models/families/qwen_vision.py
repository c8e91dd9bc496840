"""The model's side of Qwen2.5-VL and Qwen3-VL: a vision tower without a class token that takes images of any size, and
a merger that makes one visual token of a unit of patches.

Shape letters: U units of M patches, Hv width of the tower.
"""

from typing import TYPE_CHECKING, Any

from vitcop.calibrate.models.families.base import Encoding, InputSpec
from vitcop.calibrate.models.families.qwen_encoder import encode_units
from vitcop.calibrate.models.families.qwen_prompts import QwenPrompts
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


class QwenVisionFamily(QwenPrompts):
    """Vision tower `model.visual`, language model with three-axis rotary positions."""

    def check(self) -> None:
        """Rotary frequencies that follow the length are refused."""
        vision, text = self.config.vision_config, self.config.text_config
        for name in ("patch_size", "temporal_patch_size"):
            if not isinstance(found := getattr(vision, name), int):
                self._refuse(f"vision_config.{name} {found!r}", "one integer")
        if (found := text.rope_parameters["rope_type"]) in ("dynamic", "longrope"):
            self._refuse(f"text_config.rope_parameters.rope_type {found!r}", "default, linear, llama3, yarn")

    def _refuse(self, found: str, supported: str) -> None:
        raise InputError(f"config.json: {found} is not supported for {self.name}; supported: {supported}")

    def encoder_inputs(self) -> dict[str, InputSpec]:
        vision = self.config.vision_config
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": InputSpec("float", ("units", self.patches_per_token, patch)),
            "patch_places": InputSpec("int64", ("units", self.patches_per_token, 2)),
            "image_slots": InputSpec("int64", ("images", "slots")),
            "image_place": InputSpec("int64", ("units", self.patches_per_token)),
        }

    def segments(self, layer: int) -> tuple[str, str]:
        """Names of the tables, slots and places, of the patches that look at each other in this block of the tower."""
        return "image_slots", "image_place"

    @property
    def plane_layers(self) -> list[int]:
        """Blocks of the tower behind which a further feature plane is taken, ascending."""
        return []

    @property
    def num_planes(self) -> int:
        return len(self.plane_layers)

    def embedded(self, visual: "nn.Module", patches: "Tensor", inputs: "dict[str, Tensor]") -> "Tensor":
        """Patches [U,M,Hv] with a position embedding, where the tower has one beside its rotary embedding."""
        return patches

    def mergers(self, visual: "nn.Module") -> "list[nn.Module]":
        """For each plane the module from units to tokens."""
        return [visual.merger]

    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        return model.model.visual.blocks[-1].attn

    def visual_features(self, model: "nn.Module", model_inputs: "dict[str, Tensor]") -> "list[list[Tensor]]":
        kinds = []
        if "pixel_values" in model_inputs:
            inputs = (model_inputs["pixel_values"], model_inputs["image_grid_thw"])
            kinds.append(_planes(model.model.get_image_features(*inputs)))
        if "pixel_values_videos" in model_inputs:
            inputs = (model_inputs["pixel_values_videos"], model_inputs["video_grid_thw"])
            kinds.append(_planes(model.model.get_video_features(*inputs)))
        return kinds

    def encode(self, model: "nn.Module", inputs: "dict[str, Tensor]") -> Encoding:
        visual, pixels = model.model.visual, inputs["pixel_values"]
        patches = visual.patch_embed(pixels.flatten(0, 1)).reshape(*pixels.shape[:2], -1)
        return encode_units(
            visual,
            self.embedded(visual, patches, inputs),
            inputs["patch_places"],
            [tuple(inputs[name] for name in self.segments(layer)) for layer in range(len(visual.blocks))],
            self.plane_layers,
        )

    def assemble(
        self, model: "nn.Module", rows: "tuple[Tensor, ...]", inputs: "dict[str, Tensor]"
    ) -> "tuple[Tensor, ...]":
        from torch.nn.functional import embedding

        features = []
        for merger, units in zip(self.mergers(model.model.visual), rows, strict=True):
            kept = embedding(inputs["visual_rows"], units)
            merged = merger(kept.unflatten(2, (self.patches_per_token, -1)))
            features.append(merged.reshape(*kept.shape[:2], -1))
        return tuple(features)

    def rotary_ids(self, position_ids: "Tensor") -> "Tensor":
        return position_ids[..., 1:].permute(2, 0, 1)

    def model_position_ids(self, position_ids: "Tensor") -> "Tensor":
        return self.rotary_ids(position_ids)


def _planes(output: Any) -> "list[Tensor]":
    """The features [n,H] of each plane; by image, or (DeepStack in older transformers releases) of all at once."""
    from torch import Tensor, cat

    planes = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
    return [plane if isinstance(plane, Tensor) else cat(list(plane)) for plane in planes]
