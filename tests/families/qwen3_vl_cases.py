"""Qwen3-VL: DeepStack, stretched position embeddings, timestamps between the frames of a video."""

from pathlib import Path
from typing import Any

from family_case import FamilyCase
from qwen_parts import BATCHES, PATCH, TOKENS, save_parts, token_types, tokenizer
from tiny_parts import save_random


def build(
    folder: Path,
    *,
    layers: int = 4,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    sections: tuple[int, int, int] = (2, 1, 1),
    depth: int = 3,
    planes: tuple[int, ...] = (0, 1),
    side: int = 6,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """Save a tiny model.

    Args:
        sections: rotary frequencies of each axis, half of the head dim together.
        depth, planes: blocks of the vision tower, and those whose output enters the language model by itself.
        side: of the grid of position embeddings.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": len(tokenizer()),
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": list(sections),
                "mrope_interleaved": True,
            },
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": tied,
        },
        vision_config={
            "depth": depth,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": PATCH,
            "out_hidden_size": hidden,
            "num_position_embeddings": side**2,
            "deepstack_visual_indexes": list(planes),
        },
        tie_word_embeddings=tied,
        **TOKENS,
    )
    save_parts(folder)
    return save_random(folder, Qwen3VLForConditionalGeneration, config, seed=seed)


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    depth, layers = shape.get("depth", 3), shape.get("layers", 4)
    return FamilyCase(
        name=name,
        build=lambda folder: build(folder, **shape),
        batches=BATCHES,
        nodes={"Attention": (depth, layers, layers), "RMSNormalization": (0, 4 * layers + 1, 4 * layers + 1)},
        slow=slow,
        generate_inputs=token_types,
    )


CASES = (
    _case("qwen3_vl", layers=3, depth=2, slow=False),
    _case("qwen3_vl-tied", tied=True, kv_heads=4, layers=3, depth=4, planes=(0, 1, 2), side=7, seed=1),
    _case("qwen3_vl-gqa-7", hidden=672, heads=7, kv_heads=1, head_dim=96, sections=(16, 16, 16), seed=3),
    _case(
        "qwen3_vl-dim-128",
        hidden=64,
        heads=2,
        kv_heads=2,
        head_dim=128,
        sections=(24, 20, 20),
        planes=(1,),
        seed=4,
    ),
)
