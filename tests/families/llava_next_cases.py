"""LLaVA-NeXT: class token, any-resolution tiles, newlines."""

from pathlib import Path
from typing import Any

from anyres_parts import IMAGE, clip_tower, image_batches, pinpoints, text_config, tokenizer
from family_case import FamilyCase
from tiny_parts import chat_template, save_processor, save_random

TILE, PATCH = 16, 4
_GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
_WINDOW = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}


def build_llava_next(
    folder: Path,
    *,
    kind: str = "llama",
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 3,
    tied: bool = False,
    seed: int = 0,
    **text: Any,
) -> Path:
    """Save a random LlavaNextForConditionalGeneration."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil

    words, grid = tokenizer(IMAGE), pinpoints(TILE, *_GRIDS)
    config = LlavaNextConfig(
        vision_config=clip_tower(TILE, PATCH),
        text_config=text_config(
            kind,
            words,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            layers=layers,
            tie_word_embeddings=tied,
            **text,
        ),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        image_grid_pinpoints=grid,
        tie_word_embeddings=tied,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=grid
    )
    save_random(folder, LlavaNextForConditionalGeneration, config, seed=seed)
    save_processor(folder, words, images, chat_template(IMAGE))
    return folder


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    return FamilyCase(
        name=name,
        build=lambda folder: build_llava_next(folder, **shape),
        batches=image_batches((50, 26), (14, 61)),
        nodes={"Attention": (1, 3, 3), "RMSNormalization": (0, 7, 7), "RotaryEmbedding": (0, 6, 6)},
        newlines=True,
        slow=slow,
    )


CASES = (
    _case("llava-next", slow=False),
    # The first layer sees everything, the others through a window; and windows in all layers.
    _case("llava-next-window", kind="qwen2", slow=False, **_WINDOW),
    _case("llava-next-mistral-window", kind="mistral", sliding_window=12, seed=4),
    _case("llava-next-mistral", kind="mistral", hidden=320, heads=4, kv_heads=1, seed=1),
    _case("llava-next-qwen2", kind="qwen2", hidden=224, heads=7, kv_heads=1, seed=2),
    _case("llava-next-tied", tied=True, hidden=192, heads=2, kv_heads=2, attention_bias=True, seed=3),
)
