"""Held-out accuracy for each type of question, beside the accuracy without any visual token.

    python evaluate.py                          # 1920 fresh evaluation questions
    python evaluate.py --data DIR               # DIR/evaluation.jsonl of generate.py

Uses the saved processor, chat template and `generate` only; an answer is right when the whole reply is the word.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from generate import split_scenes
from PIL import Image
from questions import TYPES
from transformers import AutoProcessor, LlavaForConditionalGeneration

HERE = Path(__file__).parent
Row = tuple[Image.Image, str, str, str]  # image, prompt, answer, type


def fresh_rows(count: int) -> list[Row]:
    """Questions of the evaluation split; its first ones are those that generate.py writes."""
    return [
        (Image.fromarray(scene.pixels), prompt, answer, kind)
        for scene, questions in split_scenes("evaluation", count)
        for kind, prompt, answer in questions
    ]


def stored_rows(folder: Path) -> list[Row]:
    rows = []
    for line in (folder / "evaluation.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.append((Image.open(folder / row["images"][0]), row["prompt"], row["answer"], row["subset"]))
    return rows


@torch.inference_mode()
def replies(model, processor, rows: list[Row], with_image: bool, batch: int) -> list[str]:
    out = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        texts = []
        for _, prompt, _, _ in part:
            content = [{"type": "image"}] * with_image + [{"type": "text", "text": prompt}]
            message = [{"role": "user", "content": content}]
            texts.append(processor.apply_chat_template(message, add_generation_prompt=True))
        images = {"images": [image for image, *_ in part]} if with_image else {}
        inputs = processor(text=texts, **images, padding=True, return_tensors="pt").to(model.device)
        tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        out += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    return out


def row_of(name: str, full: list[bool], blind: list[bool]) -> str:
    """One line of the table; the standard error is that of a share of `len(full)` questions."""
    cells = []
    for right in (full, blind):
        share = sum(right) / len(right)
        cells.append(f"{100 * share:5.1f} ± {100 * math.sqrt(share * (1 - share) / len(right)):.1f}")
    return f"| {name} | {len(full)} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(HERE / "model"))
    parser.add_argument("--data", type=Path, help="folder of generate.py; default: fresh evaluation questions")
    parser.add_argument("--questions", type=int, default=1920, help="how many fresh questions")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    processor = AutoProcessor.from_pretrained(args.model)
    model = LlavaForConditionalGeneration.from_pretrained(args.model).eval().to(args.device)
    rows = stored_rows(args.data) if args.data else fresh_rows(args.questions)
    right = [
        [reply == answer for reply, (_, _, answer, _) in zip(said, rows, strict=True)]
        for said in (replies(model, processor, rows, with_image, args.batch) for with_image in (True, False))
    ]
    print("| type | questions | accuracy % | without visual tokens % |\n|---|---|---|---|")
    for kind in TYPES:
        picked = [n for n, (_, _, _, k) in enumerate(rows) if k == kind]
        if picked:
            print(row_of(kind, *([hits[n] for n in picked] for hits in right)))
    print(row_of("all", *right))


if __name__ == "__main__":
    main()
