"""InternVL3: class token, tiles with a thumbnail, pixel shuffle, frames of a video as tiles."""

from pathlib import Path
from typing import Any

from family_case import FamilyCase, Prompt
from tiny_parts import build_tokenizer, chat_template, save_processor, save_random

_SPECIAL = ("<IMG_CONTEXT>", "<img>", "</img>", "<video>")
_WIDE, _SMALL = (90, 30), (24, 24)
_BATCHES = {
    "one": (Prompt("USER: <IMG_CONTEXT> what color is this ? ASSISTANT:", (_WIDE,)),),
    "two": (
        Prompt("USER: <IMG_CONTEXT> what color is this ? ASSISTANT:", (_WIDE,)),
        Prompt("USER: how many large circle are there in <IMG_CONTEXT> ? ASSISTANT:", ((60, 20),)),
    ),
    "five": tuple(Prompt(f"USER: <IMG_CONTEXT> {'red ' * i}ASSISTANT:", (_SMALL,)) for i in range(5)),
    "three images": (
        Prompt("USER: <IMG_CONTEXT> is this <IMG_CONTEXT> or <IMG_CONTEXT> ASSISTANT:", (_WIDE, _SMALL, _WIDE)),
    ),
    "video": (Prompt("USER: <video> count ASSISTANT:", videos=((8, 40, 30),)),),
    "image and video": (Prompt("USER: <IMG_CONTEXT> <video> count ASSISTANT:", (_WIDE,), ((2, 40, 30),)),),
    "text": (Prompt("USER: no image ASSISTANT:"), Prompt("USER: red circle is this ASSISTANT:")),
}
_NODES = {"Attention": (2, 3, 3), "RMSNormalization": (0, 7, 7), "RotaryEmbedding": (0, 6, 6)}


def _case(
    name: str, *, slow: bool = True, tied: bool = True, text: dict[str, Any] | None = None, seed: int = 0
) -> FamilyCase:
    def build(folder: Path) -> Path:
        from transformers import (
            GotOcr2ImageProcessorPil,
            InternVLConfig,
            InternVLForConditionalGeneration,
            InternVLVisionConfig,
            Qwen2Config,
        )

        tokenizer = build_tokenizer(
            _SPECIAL,
            context_image_token="<IMG_CONTEXT>",
            start_image_token="<img>",
            end_image_token="</img>",
            video_token="<video>",
        )
        vision = InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
        decoder = Qwen2Config(
            **{
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 2048,
            }
            | (text or {}),
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        config = InternVLConfig(
            vision_config=vision,
            text_config=decoder,
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=16,
            tie_word_embeddings=tied,
        )
        images = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, min_patches=1, max_patches=4)
        save_processor(folder, tokenizer, images, chat_template("<IMG_CONTEXT>", "<video>"))
        return save_random(folder, InternVLForConditionalGeneration, config, seed=seed)

    return FamilyCase(name=name, build=build, batches=_BATCHES, nodes=_NODES, slow=slow)


CASES = (
    _case("internvl", slow=False),
    _case("internvl-untied", tied=False, seed=1),
    _case("internvl-gqa-7", text={"hidden_size": 672, "num_attention_heads": 7, "num_key_value_heads": 1}, seed=2),
)
