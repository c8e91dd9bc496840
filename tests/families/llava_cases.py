"""LLaVA-1.5: class token, one tile for each image."""

from pathlib import Path
from typing import Any

from family_case import FamilyCase, Prompt
from tiny_models import build_tiny_llava

_IMAGE = (40, 56)
_BATCHES = {
    "one": (Prompt("USER: <image>\nwhat color is this ? ASSISTANT:", (_IMAGE,)),),
    "two": (
        Prompt("USER: <image>\nwhat color is this ? ASSISTANT:", (_IMAGE,)),
        Prompt("USER: how many large circle are there in <image> ? ASSISTANT:", ((64, 20),)),
    ),
    "five": tuple(Prompt(f"USER: <image> {'red ' * i}ASSISTANT:", (_IMAGE,)) for i in range(5)),
    "three images": (
        Prompt("USER: <image> is this <image> or <image> ASSISTANT:", (_IMAGE, (20, 30), _IMAGE)),
        Prompt("USER: <image> <image> <image> count ASSISTANT:", (_IMAGE, _IMAGE, (30, 20))),
    ),
    "text": (Prompt("USER: no image ASSISTANT:"), Prompt("USER: red circle is this ASSISTANT:")),
}
_NODES = {"Attention": (1, 3, 3), "RMSNormalization": (0, 7, 7), "RotaryEmbedding": (0, 6, 6)}


def _case(name: str, *, slow: bool = True, **shape: Any) -> FamilyCase:
    def build(folder: Path) -> Path:
        # Wider matrices are smaller, so that logits stay of order 1 and the rounding of fp32 below 1e-4.
        scale = 6.0 * (32 / shape.get("hidden", 32)) ** 0.5
        return build_tiny_llava(folder, **{"layers": 3, "vision_layers": 2, "weight_scale": scale} | shape)

    return FamilyCase(name=name, build=build, batches=_BATCHES, nodes=_NODES, slow=slow)


CASES = (
    _case("llava", slow=False),
    _case("llava-tied", tied=True, kv_heads=4, seed=1),
    _case("llava-wide-heads", hidden=320, heads=4, kv_heads=1, seed=2),
    _case("llava-gqa-7", hidden=672, heads=7, kv_heads=1, seed=3),
    _case("llava-dim-128", hidden=256, heads=2, kv_heads=2, seed=4),
)
