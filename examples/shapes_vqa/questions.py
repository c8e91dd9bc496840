"""Questions about a scene with one-word answers, each unambiguous for the scene that it is asked about."""

from collections import Counter

import numpy as np
from shapes import BOX, COLORS, MOST_ALIKE, SHAPES, SIZES, Scene

TYPES = ("color", "shape", "exists", "digit", "count", "size")
NUMBERS = ("zero", "one", "two", "three")
_PLURAL = {"circle": "circles", "triangle": "triangles", "cross": "crosses", "star": "stars"}

Question = tuple[str, str, str]  # type, prompt, answer


def _pick(rng: np.random.Generator, items: list) -> object:
    return items[int(rng.random() * len(items))]


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """One question of this type, or None where the scene has no unambiguous one."""
    plain = [t for t in scene.things if t.shape != BOX]
    shapes = Counter(t.shape for t in plain)
    if kind in ("color", "size"):
        single = [t for t in plain if shapes[t.shape] == 1]
        if not single:
            return None
        thing = _pick(rng, single)
        if kind == "color":
            return kind, f"what color is the {SHAPES[thing.shape]}?", COLORS[thing.color]
        return kind, f"is the {SHAPES[thing.shape]} big or small?", SIZES[thing.size]
    if kind == "shape":
        colors = Counter(t.color for t in scene.things)
        single = [t for t in plain if colors[t.color] == 1]
        if not single:
            return None
        thing = _pick(rng, single)
        return kind, f"what shape is the {COLORS[thing.color]} object?", SHAPES[thing.shape]
    if kind == "digit":
        boxes = [t for t in scene.things if t.shape == BOX]
        if not boxes:
            return None
        thing = _pick(rng, boxes)
        return kind, f"what digit is in the {COLORS[thing.color]} box?", str(thing.digit)
    if kind == "count":
        # The answer is drawn before the shape: otherwise most answers would be zero.
        number = _pick(rng, sorted({shapes[s] for s in range(len(SHAPES))}))
        shape = _pick(rng, [s for s in range(len(SHAPES)) if shapes[s] == number])
        return kind, f"how many {_PLURAL[SHAPES[shape]]} are there?", NUMBERS[min(number, MOST_ALIKE)]
    return _ask_exists(rng, scene, plain)


def _ask_exists(rng: np.random.Generator, scene: Scene, plain: list) -> Question:
    """Half yes. Most noes pair a shape and a color that are both in the scene, on different objects."""
    present = {(t.color, t.shape) for t in plain}
    if rng.random() < 0.5:
        color, shape = _pick(rng, sorted(present))
        return "exists", f"is there a {COLORS[color]} {SHAPES[shape]}?", "yes"
    everything = {(c, s) for c in range(len(COLORS)) for s in range(len(SHAPES))} - present
    crossed = {(t.color, u.shape) for t in scene.things for u in plain} - present
    color, shape = _pick(rng, sorted(crossed if crossed and rng.random() < 0.6 else everything))
    return "exists", f"is there a {COLORS[color]} {SHAPES[shape]}?", "no"


def ask_many(rng: np.random.Generator, scene: Scene, count: int) -> list[Question]:
    """`count` questions of random types (repeats may happen)."""
    out: list[Question] = []
    while len(out) < count:
        question = ask(rng, scene, TYPES[int(rng.random() * len(TYPES))])
        if question is not None:
            out.append(question)
    return out
