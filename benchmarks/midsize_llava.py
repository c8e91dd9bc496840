"""A LLaVA of middle size with random weights, for benchmarks: 576 visual tokens, as the real one has."""

import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROCESSOR = HERE.parent / "examples" / "shapes_vqa" / "model"

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCABULARY = 1024, 2816, 8, 16, 32_000
TOWER_HIDDEN, TOWER_INTERMEDIATE, TOWER_LAYERS, TOWER_HEADS = 512, 2048, 6, 8
IMAGE, PATCH = 336, 14
NUM_VISUAL = (IMAGE // PATCH) ** 2
IMAGE_TOKEN = 4
"""Id of the placeholder in the embedded model's tokenizer, which is lent to the folder."""


def config() -> Any:
    """The transformers config."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=TOWER_HIDDEN,
            intermediate_size=TOWER_INTERMEDIATE,
            num_hidden_layers=TOWER_LAYERS,
            num_attention_heads=TOWER_HEADS,
            image_size=IMAGE,
            patch_size=PATCH,
            projection_dim=TOWER_HIDDEN,
        ),
        text_config=LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            vocab_size=VOCABULARY,
            max_position_embeddings=2048,
        ),
        image_token_id=IMAGE_TOKEN,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def build(folder: Path) -> Path:
    """Save the model (fp32, 0.6 GB) with a processor into `folder`; returns it."""
    import json

    import torch
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    LlavaForConditionalGeneration(config()).eval().save_pretrained(folder)
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(PROCESSOR / name, folder / name)
    processor = json.loads((PROCESSOR / "processor_config.json").read_text())
    side = {"height": IMAGE, "width": IMAGE}
    processor["image_processor"] |= {"size": side, "crop_size": side}
    processor["patch_size"] = PATCH
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    return folder


def vision_flops(num_kept: int) -> int:
    """FLOPs of the tower for one image, two for each multiply-accumulate, and of the projector for the kept patches.

    A layer of n tokens: 8·n·d² for the four projections, 4·n²·d for scores and weighted sum, 4·n·d·m for the MLP. The
    last layer of the tower is not run, since the projector reads the output of the one before it.
    """
    tokens, wide = NUM_VISUAL + 1, TOWER_HIDDEN
    layer = 8 * tokens * wide**2 + 4 * tokens**2 * wide + 4 * tokens * wide * TOWER_INTERMEDIATE
    patches = 2 * NUM_VISUAL * 3 * PATCH**2 * wide
    return patches + (TOWER_LAYERS - 1) * layer + 2 * num_kept * (wide * HIDDEN + HIDDEN**2)
