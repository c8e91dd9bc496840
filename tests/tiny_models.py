"""Tiny models with random weights, saved as Hugging Face folders: weights, processor and chat template, as a user would
have them."""

from pathlib import Path

WORDS = (
    "what is this the a of in color shape how many are there red green blue yellow circle square triangle left right "
    "above below yes no one two three four five large small background number where count digit on"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build_tiny_llava(
    folder: str | Path,
    *,
    layers: int = 4,
    vision_layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int | None = None,
    image: int = 32,
    patch: int = 8,
    vision_hidden: int = 32,
    vision_heads: int = 4,
    seed: int = 0,
    weight_scale: float = 6.0,
    dtype: str = "float32",
    tied: bool = False,
    max_shard_size: str = "5GB",
) -> Path:
    """Save a random LlavaForConditionalGeneration with its processor into `folder`; returns the folder.

    Args:
        intermediate: width of the decoder's MLP, else twice `hidden`.
        image, patch: side of the image and of a patch in pixels: (image/patch)² visual tokens.
        weight_scale: factor on transformers' initial matrices (std 0.02), which are so small that every answer would
            look alike.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.utils import logging

    folder = Path(folder)
    vocabulary = {
        word: i for i, word in enumerate([*SPECIAL, "USER", "SYSTEM", "ASSISTANT", ":", "?", ".", *WORDS.split()])
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    size = {"height": image, "width": image}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision_hidden,
            intermediate_size=2 * vision_hidden,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_heads,
            image_size=image,
            patch_size=patch,
            projection_dim=vision_hidden,
        ),
        text_config=LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate or 2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=len(vocabulary),
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=tied,
        ),
        image_token_id=vocabulary["<image>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=tied,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(weight_scale)
    torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    logging.disable_progress_bar()
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    logging.enable_progress_bar()
    processor.save_pretrained(folder)
    return folder
