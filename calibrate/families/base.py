"""What the rest of vitcop asks of a model family. Shared code knows a model through this protocol only."""

from typing import TYPE_CHECKING, Any, Protocol

from vitcop.calibrate.prompt import PromptBatch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


class Family(Protocol):
    """One family of vision-language models. Stateless; `config` is the transformers config, `model` the transformers
    model."""

    name: str
    architectures: tuple[str, ...]

    # -- from the config alone ----------------------------------------------------------------------------------------

    def check(self, config: Any) -> None:
        """Raises InputError that names the setting by which a model of this architecture is not supported."""
        ...

    def num_layers(self, config: Any) -> int:
        """L, the decoder layers of the language model."""
        ...

    def grid(self, config: Any) -> tuple[int, int]:
        """(rows, columns) of the patches of one image; their product is the visual tokens of one image."""
        ...

    def vision_shape(self, config: Any) -> tuple[int, ...]:
        """Shape of `pixel_values` for one image, without the batch axis."""
        ...

    def vision_layer(self, config: Any) -> int:
        """Index of the encoder layer whose output the projector reads."""
        ...

    # -- modules ------------------------------------------------------------------------------------------------------

    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        """The self-attention module of the encoder layer whose output the projector reads (with `q_proj` and
        `k_proj`)."""
        ...

    def projector(self, model: "nn.Module") -> "nn.Module":
        """The module from vision features to language-model features."""
        ...

    def language_model(self, model: "nn.Module") -> "nn.Module":
        """The decoder stack: `embed_tokens`, `layers`, `norm`, `rotary_emb`."""
        ...

    def lm_head(self, model: "nn.Module") -> "nn.Module":
        """The module from the last hidden states to logits."""
        ...

    def visual_features(self, model: "nn.Module", pixel_values: "Tensor") -> "Tensor":
        """[B,3,h,w] -> [B,N,H], all of them, by the model's own code."""
        ...

    # -- the host side ------------------------------------------------------------------------------------------------

    def prompt_text(self, processor: Any, conversation: list[dict[str, Any]]) -> str:
        """A conversation (roles and contents, images as `{"type": "image"}`) as the model's own prompt text."""
        ...

    def prepare(self, processor: Any, texts: "list[str]", images: "list[list[Image]]") -> PromptBatch:
        """Tokenise prompt texts and preprocess their images into one batch of equal V. Raises InputError with the
        reason."""
        ...
