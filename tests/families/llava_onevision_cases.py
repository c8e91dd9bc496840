"""LLaVA-OneVision: no class token, any-resolution tiles made smaller bilinearly, several images, videos."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyres_parts import IMAGE, VIDEO, image_batches, pinpoints, text_config, tokenizer, video_batches
from family_case import FamilyCase
from packaging.version import Version
from tiny_parts import chat_template, save_processor, save_random

TILE, PATCH = 20, 4

SEVERAL_VIDEOS = Version(version("transformers")) >= Version("5.19")
"""Before, the model's own code gives several videos one newline together, and fails."""


def build_llava_onevision(
    folder: Path,
    *,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 3,
    limit: int = 2,
    edge: int = 3,
    head: bool = False,
    feature_layer: int = -1,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """Save a random LlavaOnevisionForConditionalGeneration.

    Args:
        limit: tiles' worth of patches above which a feature map is made smaller.
        edge: most rows and columns of tiles.
        head: give the tower the pooling head that nothing reads.
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        SiglipVisionConfig,
    )

    words = tokenizer(IMAGE, VIDEO)
    grid = pinpoints(TILE, *((rows + 1, columns + 1) for rows in range(edge) for columns in range(edge)))
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=TILE,
            patch_size=PATCH,
            vision_use_head=head,
        ),
        text_config=text_config(
            "qwen2", words, hidden=hidden, heads=heads, kv_heads=kv_heads, layers=layers, tie_word_embeddings=tied
        ),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids(VIDEO),
        image_grid_pinpoints=grid,
        vision_aspect_ratio=f"anyres_max_{limit}",
        vision_feature_layer=feature_layer,
        tie_word_embeddings=tied,
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=grid)
    save_random(folder, LlavaOnevisionForConditionalGeneration, config, seed=seed)
    save_processor(folder, words, images, chat_template(IMAGE, VIDEO))
    return folder


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    return FamilyCase(
        name=name,
        build=lambda folder: build_llava_onevision(folder, **shape),
        # The wide image is made smaller, the tall one is not.
        batches=image_batches((70, 50), (11, 33)) | (video_batches((30, 40)) if SEVERAL_VIDEOS else {}),
        nodes={"Attention": (2, 3, 3), "RMSNormalization": (0, 7, 7), "RotaryEmbedding": (0, 6, 6)},
        newlines=True,
        slow=slow,
    )


CASES = (
    _case("llava-onevision", slow=False),
    _case("llava-onevision-gqa-7", hidden=448, heads=7, kv_heads=1, tied=True, seed=1),
    _case("llava-onevision-max-9", limit=9, edge=6, hidden=256, heads=2, kv_heads=1, head=True, seed=2),
)
