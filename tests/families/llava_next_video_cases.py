"""LLaVA-NeXT-Video: as LLaVA-NeXT, and videos whose patches are pooled."""

from pathlib import Path
from typing import Any

from anyres_parts import IMAGE, VIDEO, clip_tower, image_batches, pinpoints, text_config, tokenizer, video_batches
from family_case import FamilyCase
from tiny_parts import chat_template, save_processor, save_random

_GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))


def build_llava_next_video(
    folder: Path,
    *,
    kind: str = "llama",
    tile: int = 16,
    patch: int = 4,
    stride: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 3,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """Save a random LlavaNextVideoForConditionalGeneration."""
    from transformers import LlavaNextImageProcessorPil, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    words, grid = tokenizer(IMAGE, VIDEO), pinpoints(tile, *_GRIDS)
    config = LlavaNextVideoConfig(
        vision_config=clip_tower(tile, patch),
        text_config=text_config(
            kind, words, hidden=hidden, heads=heads, kv_heads=kv_heads, layers=layers, tie_word_embeddings=tied
        ),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=grid,
        spatial_pool_stride=stride,
        tie_word_embeddings=tied,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": tile}, crop_size={"height": tile, "width": tile}, image_grid_pinpoints=grid
    )
    save_random(folder, LlavaNextVideoForConditionalGeneration, config, seed=seed)
    save_processor(folder, words, images, chat_template(IMAGE, VIDEO))
    return folder


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    return FamilyCase(
        name=name,
        build=lambda folder: build_llava_next_video(folder, **shape),
        batches=image_batches((50, 26), (14, 61)) | video_batches((50, 26)),
        nodes={"Attention": (1, 3, 3), "RMSNormalization": (0, 7, 7), "RotaryEmbedding": (0, 6, 6)},
        newlines=True,
        slow=slow,
    )


CASES = (
    _case("llava-next-video", slow=False),
    _case("llava-next-video-odd", tile=20, kind="qwen2", hidden=128, heads=4, kv_heads=2, tied=True, seed=1),
    _case("llava-next-video-stride-3", tile=24, stride=3, kind="mistral", hidden=256, heads=2, kv_heads=1, seed=2),
)
