"""Qwen2.5-VL: windows in the vision tower, three-axis positions, images and videos of any size."""

from pathlib import Path
from typing import Any

from family_case import FamilyCase
from qwen_parts import BATCHES, PATCH, TOKENS, save_parts, token_types, tokenizer
from tiny_parts import save_random


def build(
    folder: Path,
    *,
    layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    sections: tuple[int, int, int] = (2, 1, 1),
    depth: int = 3,
    full: tuple[int, ...] = (2,),
    window: int = 24,
    tied: bool = False,
    sliding: int | None = None,
    seed: int = 0,
) -> Path:
    """Save a tiny model.

    Args:
        sections: rotary frequencies of each axis, half of the head dim together.
        depth, full: blocks of the vision tower, and those that look beyond their windows.
        window: in pixels; 24 are windows of 3×3 units.
        sliding: tokens in the windows of the language model's odd layers.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": len(tokenizer()),
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)},
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": tied,
            **_windows(layers, sliding),
        },
        vision_config={
            "depth": depth,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": PATCH,
            "out_hidden_size": hidden,
            "window_size": window,
            "fullatt_block_indexes": list(full),
            "tokens_per_second": 2,
        },
        tie_word_embeddings=tied,
        **TOKENS,
    )
    save_parts(folder)
    return save_random(folder, Qwen2_5_VLForConditionalGeneration, config, seed=seed)


def _windows(layers: int, sliding: int | None) -> dict[str, Any]:
    if sliding is None:
        return {}
    kinds = ["sliding_attention" if layer % 2 else "full_attention" for layer in range(layers)]
    return {"use_sliding_window": True, "sliding_window": sliding, "layer_types": kinds}


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    depth, layers = shape.get("depth", 3), shape.get("layers", 3)
    return FamilyCase(
        name=name,
        build=lambda folder: build(folder, **shape),
        batches=BATCHES,
        nodes={
            "Attention": (depth, layers, layers),
            "RMSNormalization": (2 * depth + 1, 2 * layers + 1, 2 * layers + 1),
        },
        slow=slow,
        generate_inputs=token_types,
    )


CASES = (
    _case("qwen2_5_vl", depth=2, full=(1,), slow=False),
    _case("qwen2_5_vl-window", layers=4, sliding=9, seed=5),
    _case("qwen2_5_vl-tied", tied=True, kv_heads=4, depth=4, full=(1, 3), window=16, seed=1),
    _case("qwen2_5_vl-gqa-7", hidden=672, heads=7, kv_heads=1, sections=(16, 16, 16), seed=3),
    _case("qwen2_5_vl-dim-128", hidden=256, heads=2, kv_heads=2, sections=(16, 24, 24), window=32, seed=4),
)
