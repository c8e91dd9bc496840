"""What families share whose encoder sees square tiles of one size (CLIP, SigLIP, InternViT)."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.families.base import Encoding, Family, InputSpec
from vitcop.calibrate.models.families.layout import TokenLayout, grid_places
from vitcop.calibrate.models.recording import recording
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


class TileFamily(Family):
    """Tiles go through `model.vision_tower`; what the projector reads is the output of one of its layers."""

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        size = self.config.vision_config.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def side(self) -> int:
        """Patches along the side of a tile."""
        patch = self.config.vision_config.patch_size
        return self.image_size // (patch if isinstance(patch, int) else patch[0])

    @property
    def patches_per_token(self) -> int:
        return 1

    def encoder_inputs(self) -> dict[str, InputSpec]:
        channels = self.config.vision_config.num_channels
        return {"pixel_values": InputSpec("float", ("T", channels, self.image_size, self.image_size))}

    @property
    def feature_layer(self) -> int:
        """Index of the encoder layer whose output the projector reads."""
        layer, depth = self.config.vision_feature_layer, self.config.vision_config.num_hidden_layers
        # hidden_states[0] are the embeddings, so hidden_states[i] is the output of layer i − 1.
        return (layer if layer >= 0 else depth + 1 + layer) - 1

    def check_tiles(self) -> None:
        """Raises InputError where feature layer or tile size are not one number."""
        sizes = {"vision_config.image_size": self.config.vision_config.image_size}
        for name, found in {"vision_feature_layer": self.config.vision_feature_layer, **sizes}.items():
            square = isinstance(found, int) or (name != "vision_feature_layer" and len(set(found)) == 1)
            if not square:
                raise InputError(f"config.json: {name} {found!r} is not supported for {self.name}; give one integer")

    def vision_layers(self, model: "nn.Module") -> "nn.ModuleList":
        """The encoder's layers; some transformers releases wrap the tower once more."""
        tower = model.model.vision_tower
        return getattr(tower, "vision_model", tower).encoder.layers

    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        return self.vision_layers(model)[self.feature_layer].self_attn

    def tower_states(self, model: "nn.Module", pixel_values: "Tensor") -> "Tensor":
        """[T,3,h,w] -> [T,N,Hv]: the output of the feature layer, without the class token."""
        states = model.model.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        return states[self.feature_layer + 1][:, int(self.class_token) :]

    def rows(self, states: "Tensor") -> "Tensor":
        """[T,N,Hv] -> [R,F]: what the projector reads, row by row."""
        return states.flatten(0, 1)

    def encode(self, model: "nn.Module", inputs: "dict[str, Tensor]") -> Encoding:
        with recording(self.vision_attention(model)) as seen:
            states = self.tower_states(model, inputs["pixel_values"])
        (query,), (key,) = seen.queries, seen.keys
        first = int(self.class_token)
        return Encoding(
            rows=(self.rows(states),),
            queries=query[:, :, first:].transpose(1, 2).flatten(0, 1),
            keys=key[:, :, first:].transpose(1, 2).flatten(0, 1),
            class_query=query[:, :, 0] if self.class_token else None,
            class_keys=key if self.class_token else None,
            scale=query.shape[-1] ** -0.5 if seen.scale is None else float(seen.scale),
        )

    @abstractmethod
    def projector(self, model: "nn.Module") -> "nn.Module":
        """The module from rows to features of the language model."""

    def assemble(
        self, model: "nn.Module", rows: "tuple[Tensor, ...]", inputs: "dict[str, Tensor]"
    ) -> "tuple[Tensor, ...]":
        from torch.nn.functional import embedding

        return (self.projector(model)(embedding(inputs["visual_rows"], rows[0])),)


def whole_tiles(count: int, side: int, first: int = 0) -> TokenLayout:
    """Every patch of `count` tiles is a token, tile after tile; the tiles count from `first`."""
    size = side * side
    patches = np.arange(count * size, dtype=np.int64) + first * size
    return TokenLayout(
        patches=patches[:, None],
        grid=np.tile(grid_places(side, side), (count, 1)),
        group=np.repeat(np.arange(count, dtype=np.int64), size),
        tables={"visual_rows": patches},
    )


def expand(text: str, word: str, counts: "list[int]", replacements: "list[str] | None" = None) -> str:
    """Replace the i-th placeholder of a prompt text by as many of them as its image has tokens.

    Args:
        replacements: what stands for the i-th placeholder instead, where it is more than the word repeated.
    """
    pieces = text.split(word)
    fill = replacements or [word * count for count in counts]
    return "".join(piece + filling for piece, filling in zip(pieces, [*fill, ""], strict=True))


def stacked(pixels: Any) -> np.ndarray:
    """Images of one size, as the image processor gives them, as fp32 [n,…]."""
    return np.stack([np.asarray(each) for each in pixels]).astype(np.float32)
