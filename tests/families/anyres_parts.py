"""What the tiny models of any-resolution families share: towers, language models, prompts."""

from typing import Any

from family_case import Prompt
from tiny_parts import build_tokenizer

IMAGE, VIDEO = "<image>", "<video>"


def tokenizer(*special: str) -> Any:
    """Placeholders have the ids 4, 5."""
    return build_tokenizer(special, **{f"{word.strip('<>')}_token": word for word in special})


def clip_tower(image: int, patch: int, hidden: int = 32, heads: int = 4, layers: int = 2) -> Any:
    """CLIP: a class token and (image/patch)² patches."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image,
        patch_size=patch,
        projection_dim=hidden,
    )


def text_config(kind: str, words: Any, *, hidden: int, heads: int, kv_heads: int, layers: int, **more: Any) -> Any:
    """A language model: "llama", "mistral" or "qwen2"."""
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    windows = {"sliding_window": None} if kind == "mistral" else {}
    settings = windows | more
    return {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}[kind](
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=len(words),
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **settings,
    )


def pinpoints(tile: int, *grids: tuple[int, int]) -> list[list[int]]:
    """Image sizes of grids of (rows, columns) tiles."""
    return [[rows * tile, columns * tile] for rows, columns in grids]


def image_batches(wide: tuple[int, int], tall: tuple[int, int]) -> dict[str, tuple[Prompt, ...]]:
    """Prompts with images of these two sizes (width, height)."""
    ask = f"USER: {IMAGE} what color is this ? ASSISTANT:"
    return {
        "one": (Prompt(ask, (wide,)),),
        "two": (
            Prompt(ask, (wide,)),
            Prompt(f"USER: how many large circle are there in {IMAGE} ? ASSISTANT:", (wide,)),
        ),
        "three tall": tuple(Prompt(f"USER: {IMAGE} {'red ' * i}ASSISTANT:", (tall,)) for i in range(3)),
        "two images": (
            Prompt(f"USER: {IMAGE} is this {IMAGE} ? ASSISTANT:", (wide, tall)),
            Prompt(f"USER: {IMAGE} {IMAGE} count ASSISTANT:", (tall, wide)),
        ),
        "text": (Prompt("USER: no image ASSISTANT:"), Prompt("USER: red circle is this ASSISTANT:")),
    }


def video_batches(image: tuple[int, int], frames: int = 8) -> dict[str, tuple[Prompt, ...]]:
    """Prompts with videos, and one with both."""
    film = (frames, 40, 30)
    return {
        "two videos": (
            Prompt(f"USER: {VIDEO} what is this ? ASSISTANT:", (), (film,)),
            Prompt(f"USER: count the circle in {VIDEO} ASSISTANT:", (), ((frames, 20, 50),)),
        ),
        "image and video": (
            Prompt(f"USER: {IMAGE} or {VIDEO} ? ASSISTANT:", (image,), (film,)),
            Prompt(f"USER: red {VIDEO} or {IMAGE} ? ASSISTANT:", (image,), (film,)),
        ),
    }
