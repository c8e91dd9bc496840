"""Sample sets of random pictures."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_samples(folder: Path, num: int, seed: int, prefix: str = "s") -> Path:
    """Random pictures of random sizes with questions of three lengths; returns the JSONL file."""
    stream = np.random.default_rng(seed)
    lines = []
    for i in range(num):
        height, width = stream.integers(24, 80, size=2)
        Image.fromarray(stream.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{prefix}{i}.png")
        prompt = "what color is the" + " large red" * (i % 3) + " circle ?"
        lines.append(
            json.dumps({"id": f"{prefix}{i}", "images": [f"{prefix}{i}.png"], "prompt": prompt, "answer": "red"})
        )
    file = folder / f"{prefix}.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
