"""Write the calibration, selection and evaluation splits: PNG images and one JSON line for each question.

    python generate.py --out DIR

Splits share no image with each other or with training, and the digits of evaluation are handwriting that training
never used. An image carries up to four questions of different types; the types are equally frequent.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from questions import TYPES, Question, ask
from shapes import Scene, draw_scene, stream

# Training draws from streams 1 and 2; see train.py.
SPLITS = {"calibration": (10, "dev", 192), "selection": (11, "dev", 288), "evaluation": (12, "evaluation", 480)}
QUESTIONS_PER_IMAGE = 4


def split_scenes(name: str, count: int, seed: int = 0) -> Iterator[tuple[Scene, list[Question]]]:
    """Scenes with their questions, `count` questions in all."""
    number, digit_set, _ = SPLITS[name]
    rng = stream(seed, number)
    asked = dict.fromkeys(TYPES, 0)
    left = count
    while left:
        scene = draw_scene(rng, digit_set)
        questions: list[Question] = []
        # The rarest type first, so that all types stay equally frequent.
        for kind in sorted(TYPES, key=asked.__getitem__):
            if len(questions) == min(QUESTIONS_PER_IMAGE, left):
                break
            question = ask(rng, scene, kind)
            if question is not None:
                questions.append(question)
                asked[kind] += 1
        left -= len(questions)
        yield scene, questions


def write_split(folder: Path, name: str, count: int, seed: int) -> int:
    """Write images and NAME.jsonl below the folder; returns the number of images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines, number = [], -1
    for number, (scene, questions) in enumerate(split_scenes(name, count, seed)):
        image = f"images/{name}-{number:04d}.png"
        Image.fromarray(scene.pixels).save(folder / image)
        for kind, prompt, answer in questions:
            row = {"id": f"{name}-{len(lines):04d}", "images": [image], "prompt": prompt, "answer": answer}
            lines.append(json.dumps(row | {"subset": kind}))
    (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return number + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name, (_, _, count) in SPLITS.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="QUESTIONS")
    args = parser.parse_args()
    for name in SPLITS:
        count = getattr(args, name)
        images = write_split(args.out, name, count, args.seed)
        print(f"{name}: {count} questions on {images} images")


if __name__ == "__main__":
    main()
