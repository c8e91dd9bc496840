"""What the rest of vitcop asks of a model family, and what families share. Shared code knows a model through this class
only.

A family is bound to one config. It answers on three sides:

- facts, from the config alone;
- the host: prompts and images become a batch, with every index tensor that depends on image sizes (any-resolution
  tiles, windows, three-axis positions), so that graphs depend on nothing but tensors;
- the model: where its layers are, its own visual features (`visual_features`, which PyTorch under a schedule uses), and
  the same features in a form that torch.export can trace for any number of images (`encode` and `assemble`).

Shape letters: B batch, V visual tokens, T tiles or frames, P encoder patches, M patches behind one token, R rows that
the encoder gives (most often one for each token), H hidden size, Nh vision heads, D their dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vitcop.calibrate.models.families.layout import TokenLayout, spread
from vitcop.calibrate.models.prompt import PromptBatch, batch_prompts
from vitcop.calibrate.schedule.schedule import Schedule, VisionScore
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from vitcop.calibrate.models.processor import Processor

CLASS_FREE_SCORES: tuple[VisionScore, ...] = ("mean_query", "key_norm", "key_diversity")


@dataclass(frozen=True)
class InputSpec:
    """One input of the vision graph: `kind` is "int64" or "float" (of the model's type), or "float32"; `axes` are
    fixed sizes, or the names of those that vary."""

    kind: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What the vision encoder gives, before the projector where that is possible.

    Args:
        rows: [R,F]; of each plane, the features that enter the language model first.
        queries, keys: [P,Nh,D] of the encoder layer that the scores read, patch by patch; fp as computed.
        class_query, class_keys: [T,Nh,D] and [T,Nh,1+N,D] of encoders with a class token; else None.
        scale: of that layer's attention logits.
    """

    rows: tuple["Tensor", ...]
    queries: "Tensor"
    keys: "Tensor"
    class_query: "Tensor | None"
    class_keys: "Tensor | None"
    scale: float


class Family(ABC):
    """One family of vision-language models, bound to a transformers config."""

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    num_axes: ClassVar[int] = 1
    """Rotary position axes: 1, or 3 (temporal, height, width)."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._check_windows()
        self.check()

    # -- facts, from the config alone ---------------------------------------------------------------------------------

    @abstractmethod
    def check(self) -> None:
        """Raises InputError that names the setting by which a model of this architecture is not supported."""

    @property
    @abstractmethod
    def num_visual(self) -> int:
        """Visual tokens of one image of the encoder's own size: the yardstick where no sample is at hand."""

    @property
    @abstractmethod
    def patches_per_token(self) -> int:
        """M, the encoder patches whose scores and keys a visual token is judged by."""

    @abstractmethod
    def encoder_inputs(self) -> dict[str, InputSpec]:
        """What the encoder reads: pixels, and index tensors of its own."""

    def token_inputs(self) -> dict[str, InputSpec]:
        """Index tensors by which `assemble` makes tokens of rows, each [B,V,…]."""
        return {"visual_rows": InputSpec("int64", ("B", "V"))}

    @property
    def num_layers(self) -> int:
        """L, the decoder layers of the language model."""
        return self.config.text_config.num_hidden_layers

    @property
    def num_planes(self) -> int:
        """Feature planes beside the first that enter the language model after its first layers (DeepStack)."""
        return 0

    @property
    def class_token(self) -> bool:
        """Whether the encoder has a class token, whose attention is a score."""
        return False

    @property
    def vision_scores(self) -> tuple[VisionScore, ...]:
        """Scores that the vision stage of a schedule may name for this family."""
        return ("class_attention", *CLASS_FREE_SCORES) if self.class_token else CLASS_FREE_SCORES

    @property
    def search_scores(self) -> tuple[VisionScore, ...]:
        """Those of them that a search tries: the paper's where there is a class token, else all."""
        return self.vision_scores[:1] if self.class_token else self.vision_scores

    def check_scores(self, schedule: Schedule) -> None:
        """Raises InputError where the vision stage of a schedule asks for a score that this encoder does not have."""
        score = schedule.vision.score if schedule.vision else "uniform"
        if score not in (*self.vision_scores, "uniform", "random"):
            raise InputError(
                f"vision score {score!r} does not exist for family {self.name}; it has {', '.join(self.vision_scores)}"
            )

    @property
    def image_token(self) -> int:
        """Placeholder id of an image's visual tokens."""
        token = _first(self.config, "image_token_id", "image_token_index")
        if token is None:
            raise InputError("config.json names no image token (image_token_id or image_token_index)")
        return int(token)

    @property
    def video_token(self) -> int | None:
        """Placeholder id of a video's visual tokens, or None where the family takes no video."""
        return None

    @property
    def visual_tokens(self) -> tuple[int, ...]:
        """All placeholder ids."""
        return tuple(dict.fromkeys(token for token in (self.image_token, self.video_token) if token is not None))

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Of each decoder layer "full_attention" or "sliding_attention"; empty where the language model makes no
        difference between its layers and takes one mask for all."""
        return tuple(getattr(self.config.text_config, "layer_types", None) or ())

    @property
    def sliding_layers(self) -> frozenset[int]:
        """Decoder layers that attend through a sliding window."""
        if getattr(self.config.text_config, "sliding_window", None) is None:
            return frozenset()
        types = self.layer_types or ("sliding_attention",) * self.num_layers
        return frozenset(layer for layer, kind in enumerate(types) if kind == "sliding_attention")

    @property
    def window(self) -> int | None:
        """W: tokens of a sliding layer attend to less than W places back. None where no layer slides."""
        return self.config.text_config.sliding_window if self.sliding_layers else None

    def check_decoder(self, *types: str) -> None:
        """Raises InputError where the language model is of another type."""
        self.require(text_config__model_type=types)

    def _check_windows(self) -> None:
        """Raises InputError for sliding windows in the config of a language model that has none, and ignores them."""
        text = self.config.text_config
        if self.sliding_layers and "sliding_window" not in type(text)().to_dict():
            raise InputError(
                f"config.json: text_config.sliding_window {self.window} is not supported for {self.name}: "
                f"{text.model_type} has no sliding windows"
            )

    def require(self, **expected: Any) -> None:
        """Raises InputError for the first setting of the config that is not as expected; `a__b` means config.a.b."""
        for name, supported in expected.items():
            value = self.config
            for part in name.split("__"):
                value = getattr(value, part, None)
            choices = supported if isinstance(supported, tuple) else (supported,)
            if value not in choices:
                raise InputError(
                    f"config.json: {name.replace('__', '.')} {value!r} is not supported for {self.name}; supported: "
                    f"{', '.join(map(repr, choices))}"
                )

    # -- modules ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        """The self-attention module of the encoder layer that the scores read: the last one before the projector."""

    def language_model(self, model: "nn.Module") -> "nn.Module":
        """The decoder stack: `embed_tokens`, `layers`, `norm`, `rotary_emb`."""
        return model.model.language_model

    def lm_head(self, model: "nn.Module") -> "nn.Module":
        """The module from the last hidden states to logits."""
        return model.lm_head

    # -- the model: features by its own code, and the same to be traced -----------------------------------------------

    @abstractmethod
    def visual_features(self, model: "nn.Module", model_inputs: "dict[str, Tensor]") -> "list[list[Tensor]]":
        """By the model's own code: for images, then for videos (where there are any), the features [n,H] of all their
        tokens in order, one tensor for each plane."""

    def patch_vectors(self, vectors: "list[Tensor]", vision_inputs: "dict[str, Tensor]") -> "Tensor":
        """Queries or keys of each patch [P,Nh,D], from those that the model's own code handed to its attention, call by
        call [T,Nh,N,D]."""
        from torch import cat

        return cat([each[:, :, int(self.class_token) :].transpose(1, 2).flatten(0, 1) for each in vectors])

    @abstractmethod
    def encode(self, model: "nn.Module", inputs: "dict[str, Tensor]") -> Encoding:
        """The encoder as it is traced, from `encoder_inputs`."""

    @abstractmethod
    def assemble(
        self, model: "nn.Module", rows: "tuple[Tensor, ...]", inputs: "dict[str, Tensor]"
    ) -> "tuple[Tensor, ...]":
        """Features [B,V,H] of each plane from the encoder's rows, by `token_inputs`. Tokens do not mix here, so that a
        batch of fewer tokens costs less."""

    def rotary_ids(self, position_ids: "Tensor") -> "Tensor":
        """Position ids of a batch ([B,S] or [B,S,4]) as the decoder's rotary embedding takes them."""
        return position_ids

    def model_position_ids(self, position_ids: "Tensor") -> "Tensor":
        """Position ids of a batch as the transformers model takes them."""
        return position_ids

    # -- the host -----------------------------------------------------------------------------------------------------

    def prompt_text(self, processor: "Processor", conversation: list[dict[str, Any]]) -> str:
        """A conversation (roles and contents, images as `{"type": "image"}`) as the model's own prompt text."""
        return processor.prompt_text(conversation)

    @abstractmethod
    def process(
        self, processor: "Processor", text: str, images: "list[Image]", videos: "list[list[Image]]"
    ) -> tuple[str, dict[str, np.ndarray]]:
        """One prompt: its text with every placeholder expanded to the tokens of its image or video, and the inputs that
        the transformers model takes for them."""

    @abstractmethod
    def layouts(self, model_inputs: dict[str, np.ndarray]) -> tuple[TokenLayout | None, TokenLayout | None]:
        """Where the tokens of all images come from, and those of all videos, in order; None where there are none."""

    def encoder_arrays(self, model_inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays of `encoder_inputs`."""
        return {"pixel_values": model_inputs["pixel_values"]}

    def positions(self, batch: PromptBatch) -> np.ndarray:
        """Position ids of a batch: [B,S], or [B,S,4] for three axes."""
        return batch.position_ids

    def prepare(
        self,
        processor: "Processor",
        texts: Sequence[str],
        images: "Sequence[list[Image]]",
        videos: "Sequence[list[list[Image]]] | None" = None,
    ) -> PromptBatch:
        """Tokenise prompt texts and preprocess their images and videos (lists of frames) into one batch of equal V.

        Raises InputError with the reason.
        """
        rows, media = [], []
        for text, pictures, films in zip(texts, images, videos or [[]] * len(texts), strict=True):
            self._check_placeholders(processor, text, len(pictures), len(films))
            expanded, inputs = self.process(processor, text, pictures, films) if pictures or films else (text, {})
            rows.append(processor.token_ids(expanded))
            media.append(inputs)
        return self.batch(rows, processor.pad_token, media)

    def join(self, prompts: Sequence[PromptBatch], pad_token: int) -> PromptBatch:
        """One batch of several, padded on the left.

        Raises InputError where they differ in their number of visual tokens, or in the shape of a video.
        """
        rows = [ids for prompt in prompts for ids in prompt.token_ids()]
        return self.batch(rows, pad_token, [prompt.model_inputs for prompt in prompts])

    def batch(self, token_ids: list[list[int]], pad_token: int, media: Sequence[dict[str, np.ndarray]]) -> PromptBatch:
        """Rows of token ids (placeholders expanded) and the model inputs of their images, in order, as one batch."""
        from dataclasses import replace

        batch = batch_prompts(token_ids, self.visual_tokens, pad_token)
        inputs = {
            name: _concatenate(name, [each[name] for each in media if name in each])
            for name in dict.fromkeys(name for each in media for name in each)
        }
        batch = replace(batch, model_inputs=inputs)
        batch = replace(batch, position_ids=self.positions(batch))
        if not inputs:
            return batch
        images, videos = self.layouts(inputs)
        layout = spread({self.image_token: images, self.video_token: videos}, batch.visual_ids)
        return replace(batch, vision_inputs=self.encoder_arrays(inputs) | layout)

    def placeholders(self, processor: "Processor") -> tuple[str, str | None]:
        """What stands in a prompt text for an image, and for a video (None where the family takes none)."""
        word_of, video = processor.tokenizer.convert_ids_to_tokens, self.video_token
        return word_of(self.image_token), None if video is None else word_of(video)

    def _check_placeholders(self, processor: "Processor", text: str, num_images: int, num_videos: int) -> None:
        words = self.placeholders(processor)
        for kind, word, given in zip(("image", "video"), words, (num_images, num_videos), strict=True):
            if given and word is None:
                raise InputError(f"models of family {self.name} take no {kind}")
            found = text.count(word) if word else 0
            if found != given:
                raise InputError(f"the prompt has {found} {word} for {given} {kind}{'s' * (given != 1)}")


def _concatenate(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = sorted({array.shape[1:] for array in arrays})
        raise InputError(f"prompts of one batch have {name} of different shapes {shapes}: group them by shape")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _first(config: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(config, name, None)) is not None), None)
