"""The word list, the tokenizer and the processor of the model."""

import re
from pathlib import Path

from questions import NUMBERS
from shapes import COLORS, PATCH, SHAPES, SIDE, SIZES

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIAL))
_TEXT = (
    "? what color is the shape object there a digit in box how many are big or small yes no "
    "circles triangles crosses stars"
)
WORDS = tuple(dict.fromkeys((*SPECIAL, *_TEXT.split(), *SHAPES, *COLORS, *SIZES, *NUMBERS, *map(str, range(10)))))
INDEX = {word: n for n, word in enumerate(WORDS)}

# A question follows its image directly; an answer is one word and the end mark.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
)


def encode(text: str) -> list[int]:
    """Token numbers of plain text, the same as the tokenizer's."""
    return [INDEX.get(word, UNK) for word in re.findall(r"\w+|[^\w\s]+", text.lower())]


def build_processor():
    """A LlavaProcessor that needs neither torchvision nor a network."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = Tokenizer(models.WordLevel(INDEX, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=1024,
    )
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save_processor(folder: Path) -> None:
    build_processor().save_pretrained(folder)
