"""Parts of tiny models that all families share: a tokenizer of a few words, and saving a random model."""

from pathlib import Path
from typing import Any

from family_case import WORDS


def build_tokenizer(special: tuple[str, ...], **roles: str) -> Any:
    """A word-level tokenizer.

    Args:
        special: special tokens, which get the ids 4, 5, … in their order, behind <pad>, <s>, </s> and <unk>.
        roles: attributes for which transformers keeps a token (`image_token="<image>"` and the like).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fixed = ("<pad>", "<s>", "</s>", "<unk>", *special)
    words = (*fixed, "USER", "ASSISTANT", ":", "?", ".", "<", ">", *WORDS.split())
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(special),
        **roles,
    )


def chat_template(image: str, video: str = "") -> str:
    """A template that puts these placeholders where a conversation has images and videos."""
    return (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + "' }}"
        "{% elif part['type'] == 'video' %}{{ '" + video + "' }}"
        "{% else %}{{ part['text'] + ' ' }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )


def save_random(folder: Path, model_class: Any, config: Any, *, seed: int = 0, scale: float = 6.0) -> Path:
    """Save a random model: matrices `scale` times transformers' own (std 0.02), whose answers would all look alike;
    wide matrices less, so that logits stay of order 1 and the rounding of fp32 below 1e-4."""
    import torch
    from transformers.utils import logging

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(scale * min(1.0, 64 / parameter[0].numel()) ** 0.5)
            elif "k_norm" in name:
                # Between ones all keys of a head are equally long, and their norm tells nothing but rounding.
                parameter.uniform_(0.2, 1.8)
    torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


def save_processor(folder: Path, tokenizer: Any, image_processor: Any, template: str) -> None:
    """The processor's files, without a processor class (which may need torchvision)."""
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
