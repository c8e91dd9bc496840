"""LLaVA-1.5: a CLIP tower with a class token, an MLP projector, a Llama-like language model, one fixed grid for each
image."""

from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.prompt import PromptBatch, batch_prompts
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn


class LlavaFamily:
    """`LlavaForConditionalGeneration` with one image to a prompt."""

    name = "llava"
    architectures = ("LlavaForConditionalGeneration",)

    def check(self, config: Any) -> None:
        """The architecture also serves Pixtral, SigLIP and other towers and language models; those are refused."""
        expected = {
            "vision_config.model_type": (getattr(config.vision_config, "model_type", None), "clip_vision_model"),
            "text_config.model_type": (getattr(config.text_config, "model_type", None), "llama"),
            "vision_feature_select_strategy": (getattr(config, "vision_feature_select_strategy", "default"), "default"),
        }
        for name, (found, supported) in expected.items():
            if found != supported:
                raise InputError(f"config.json: {name} {found!r} is not supported for LLaVA; supported: {supported!r}")
        whole = {
            "vision_feature_layer": getattr(config, "vision_feature_layer", -2),
            "vision_config.image_size": getattr(config.vision_config, "image_size", 336),
        }
        for name, found in whole.items():
            if not isinstance(found, int):
                raise InputError(f"config.json: {name} {found!r} is not supported for LLaVA; give one integer")

    def num_layers(self, config: Any) -> int:
        return config.text_config.num_hidden_layers

    def grid(self, config: Any) -> tuple[int, int]:
        side = config.vision_config.image_size // config.vision_config.patch_size
        return side, side

    def vision_shape(self, config: Any) -> tuple[int, ...]:
        vision = config.vision_config
        return vision.num_channels, vision.image_size, vision.image_size

    def vision_layer(self, config: Any) -> int:
        layer = config.vision_feature_layer
        # hidden_states[0] are the embeddings, so hidden_states[i] is the output of layer i − 1.
        depth = config.vision_config.num_hidden_layers
        return (layer if layer >= 0 else depth + 1 + layer) - 1

    def vision_attention(self, model: "nn.Module") -> "nn.Module":
        return _encoder(model).layers[self.vision_layer(model.config)].self_attn

    def projector(self, model: "nn.Module") -> "nn.Module":
        return model.model.multi_modal_projector

    def language_model(self, model: "nn.Module") -> "nn.Module":
        return model.model.language_model

    def lm_head(self, model: "nn.Module") -> "nn.Module":
        return model.lm_head

    def visual_features(self, model: "nn.Module", pixel_values: "Tensor") -> "Tensor":
        # Not `get_image_features`: it returns a list with one entry for each image, which fixes the batch when it is
        # traced.
        states = model.model.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        return self.projector(model)(states[self.vision_layer(model.config) + 1][:, 1:])

    def prompt_text(self, processor: Any, conversation: list[dict[str, Any]]) -> str:
        return processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)

    def prepare(self, processor: Any, texts: "list[str]", images: "list[list[Image]]") -> PromptBatch:
        for text, pictures in zip(texts, images, strict=True):
            found = text.count(processor.image_token)
            if len(pictures) != 1 or found != 1:
                raise InputError(
                    f"expected one image and one {processor.image_token} a prompt, found {len(pictures)} and {found}"
                )
        tokenizer = processor.tokenizer
        # As transformers' apply_chat_template(tokenize=True) does: LLaVA's template leaves <s> to the tokenizer.
        templated = bool(tokenizer.bos_token) and texts[0].startswith(tokenizer.bos_token)
        encoded = processor(text=texts, images=[pictures[0] for pictures in images], add_special_tokens=not templated)
        pixels = np.stack([np.asarray(pixel) for pixel in encoded["pixel_values"]]).astype(np.float32)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        image_token = tokenizer.convert_tokens_to_ids(processor.image_token)
        return batch_prompts([list(ids) for ids in encoded["input_ids"]], image_token, pad, {"pixel_values": pixels})


def _encoder(model: "nn.Module") -> "nn.Module":
    """The CLIP encoder; some transformers releases wrap it once more."""
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower).encoder
