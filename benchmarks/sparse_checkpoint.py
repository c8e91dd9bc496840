"""A model folder of the shape of LLaVA-1.5-7B that takes no disk: its matrices are holes in sparse files.

Names, shapes and shard sizes are those of the checkpoint as it is found on the hub (14 GB in fp16, three shards).
Vectors (norms, biases, the class token) have random values of their own, so that nothing can take one for another;
matrices read as zeros.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PROCESSOR = HERE.parent / "examples" / "shapes_vqa" / "model"
PROCESSOR_FILES = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCABULARY = 4096, 11008, 32, 32, 32064
TOWER_HIDDEN, TOWER_INTERMEDIATE, TOWER_LAYERS, TOWER_HEADS = 1024, 4096, 24, 16
IMAGE, PATCH = 336, 14
IMAGE_TOKEN = 4
"""Id of the placeholder in the embedded model's tokenizer, which is lent to the folder."""

SHARD_BYTES = 4_950_000_000
FP16_BYTES = 2


def build(folder: Path) -> Path:
    """Write the folder; returns it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}) + "\n")
    for name in PROCESSOR_FILES:
        shutil.copyfile(PROCESSOR / name, folder / name)
    processor = json.loads((PROCESSOR / "processor_config.json").read_text())
    side = {"height": IMAGE, "width": IMAGE}
    processor["image_processor"] |= {"size": side, "crop_size": side}
    processor["patch_size"] = PATCH
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")

    shards = _shards()
    weight_map, random = {}, np.random.default_rng(0)
    for index, tensors in enumerate(shards):
        name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, tensors, random)
        weight_map |= dict.fromkeys(tensors, name)
    size = sum(FP16_BYTES * math.prod(shape) for tensors in shards for shape in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index) + "\n")
    return folder


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": "float16",
        "image_token_index": IMAGE_TOKEN,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "vocab_size": VOCABULARY,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": TOWER_HIDDEN,
            "intermediate_size": TOWER_INTERMEDIATE,
            "num_hidden_layers": TOWER_LAYERS,
            "num_attention_heads": TOWER_HEADS,
            "image_size": IMAGE,
            "patch_size": PATCH,
            "projection_dim": 768,
        },
    }


def _shards() -> list[dict[str, tuple[int, ...]]]:
    """Names and shapes of the tensors, shard by shard; a shard is full before the next one begins."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in _tensors():
        size = FP16_BYTES * math.prod(shape)
        if filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    return shards


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    tower, patches = "vision_tower.vision_model", (IMAGE // PATCH) ** 2
    yield f"{tower}.embeddings.class_embedding", (TOWER_HIDDEN,)
    yield f"{tower}.embeddings.patch_embedding.weight", (TOWER_HIDDEN, 3, PATCH, PATCH)
    yield f"{tower}.embeddings.position_embedding.weight", (patches + 1, TOWER_HIDDEN)
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield from _linear(f"{tower}.{norm}", (TOWER_HIDDEN,))
    for layer in range(TOWER_LAYERS):
        path = f"{tower}.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{path}.self_attn.{part}", (TOWER_HIDDEN, TOWER_HIDDEN))
        yield from _linear(f"{path}.mlp.fc1", (TOWER_INTERMEDIATE, TOWER_HIDDEN))
        yield from _linear(f"{path}.mlp.fc2", (TOWER_HIDDEN, TOWER_INTERMEDIATE))
        for norm in ("layer_norm1", "layer_norm2"):
            yield from _linear(f"{path}.{norm}", (TOWER_HIDDEN,))
    yield from _linear("multi_modal_projector.linear_1", (HIDDEN, TOWER_HIDDEN))
    yield from _linear("multi_modal_projector.linear_2", (HIDDEN, HIDDEN))
    yield "language_model.model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        path = f"language_model.model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{path}.self_attn.{part}.weight", (HIDDEN, HIDDEN)
        yield f"{path}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{path}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{path}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{path}.{norm}.weight", (HIDDEN,)
    yield "language_model.model.norm.weight", (HIDDEN,)
    yield "language_model.lm_head.weight", (VOCABULARY, HIDDEN)


def _linear(path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.weight", shape
    yield f"{path}.bias", shape[:1]


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    """The format of safetensors: 8 bytes of header length, the header as JSON, then the tensors' bytes in order."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        begin, end = end, end + FP16_BYTES * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + end)
        for name, shape in tensors.items():
            if len(shape) == 1:
                file.seek(start + header[name]["data_offsets"][0])
                file.write(random.normal(1.0, 0.1, shape).astype(np.float16).tobytes())
