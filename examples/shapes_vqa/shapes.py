"""Scenes: two to four objects on textured ground, drawn with numpy from one seeded generator.

An object is a coloured circle, triangle, cross or star, big or small, or a box: a coloured frame around a real
handwritten digit of scikit-learn's `load_digits`. Everything is a function of the generator's state, so the same
seed gives the same bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 96  # pixels
PATCH = 8  # pixels
GRID = SIDE // PATCH
SHAPES = ("circle", "triangle", "cross", "star")
BOX = len(SHAPES)  # the shape number of a box
COLORS = ("red", "green", "blue", "yellow", "purple")
SIZES = ("small", "big")
BOX_SIDE, DIGIT_SIDE, FRAME = 32, 24, 4
MOST_ALIKE = 3  # at most this many objects of one shape, so that counts go from zero to three

_RGB = np.array([(215, 45, 45), (45, 175, 60), (45, 85, 225), (230, 210, 45), (165, 55, 190)], np.float32)  # [C,3]
_DIAMETER = ((14, 18), (26, 31))  # half-open ranges for small and big
_COVER = 8  # pixels of an object that make a patch belong to it, out of 64
_DIGIT_SETS = {"train": (0, 1300), "dev": (1300, 1500), "evaluation": (1500, 1797)}


@dataclass(frozen=True)
class Thing:
    """One object: numbers into SHAPES (or BOX), COLORS and SIZES; digit is -1 unless it is a box."""

    shape: int
    color: int
    size: int
    digit: int
    top: int
    left: int
    side: int


@dataclass(frozen=True)
class Scene:
    """pixels: uint8 [96,96,3]; owner: which thing covers each patch, -1 for ground, int64 [144]."""

    pixels: np.ndarray
    things: tuple[Thing, ...]
    owner: np.ndarray


def stream(seed: int, *path: int) -> np.random.Generator:
    """An independent generator for each path of numbers below one seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


@lru_cache(maxsize=4)
def digits(which: str) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of one of three disjoint sets: images float32 [N,24,24] in 0..1 and labels int64 [N]."""
    data = load_digits()
    first, last = _DIGIT_SETS[which]
    rows = stream(1797).permutation(len(data.target))[first:last]
    small = (data.images[rows] * 255 / 16).astype(np.uint8)  # [N,8,8]
    large = [Image.fromarray(im).resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BILINEAR) for im in small]
    return np.stack([np.asarray(im, np.float32) for im in large]) / 255, data.target[rows].astype(np.int64)


@lru_cache(maxsize=256)
def _mask(shape: int, side: int) -> np.ndarray:
    """Pixels that a shape of this diameter covers: bool [side,side]."""
    line = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(line, line, indexing="ij")
    if SHAPES[shape] == "circle":
        return x * x + y * y <= 1
    if SHAPES[shape] == "triangle":
        return np.abs(x) <= (y + 1) / 2
    if SHAPES[shape] == "cross":
        return (np.abs(x) <= 0.3) | (np.abs(y) <= 0.3)
    # A five-pointed star: the radius of its outline falls from 1 at a tip to 0.42 half-way to the next one.
    turn = np.arctan2(x, -y) * 5 / (2 * np.pi)
    off = np.abs(turn - np.round(turn)) * 2 * np.pi / 5
    inner, half = 0.42, np.pi / 5
    edge = inner * np.sin(half) / (np.sin(off) * (1 - inner * np.cos(half)) + np.cos(off) * inner * np.sin(half))
    return np.hypot(x, y) <= edge


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Tinted ground with coarse and fine noise: float32 [96,96,3]."""
    base = rng.uniform(60, 135) + rng.uniform(-12, 12, 3)
    coarse = rng.uniform(-28, 28, (GRID * 2, GRID * 2)).astype(np.float32)
    coarse = coarse.repeat(PATCH // 2, 0).repeat(PATCH // 2, 1)
    fine = rng.standard_normal((SIDE, SIDE), np.float32) * 7
    return (coarse + fine)[..., None] + base.astype(np.float32)


def _kinds(rng: np.random.Generator, least: int, most: int) -> list[list[int]]:
    """[shape, color, size] of each object of a scene; boxes come first and differ in color."""
    count = int(rng.integers(least, most + 1))
    boxes = min(int(rng.choice(3, p=(0.3, 0.5, 0.2))), count - 1)
    kinds = [[BOX, int(color), 1] for color in rng.permutation(len(COLORS))[:boxes]]
    drawn: list[int] = []
    for _ in range(count - boxes):
        repeat = bool(drawn) and rng.random() < 0.4
        shape = drawn[-1] if repeat else int(rng.integers(len(SHAPES)))
        if drawn.count(shape) == MOST_ALIKE:
            shape = (shape + 1) % len(SHAPES)
        drawn.append(shape)
        kinds.append([shape, int(rng.integers(len(COLORS))), int(rng.integers(2))])
    return kinds


def _place(rng: np.random.Generator, sides: list[int], boxes: int) -> list[tuple[int, int]] | None:
    """Corners that keep the objects apart, or None where luck ran out; boxes stand on the patch grid."""
    corners: list[tuple[int, int]] = []
    for n, side in enumerate(sides):
        step = PATCH if n < boxes else 1
        for _ in range(30):
            top, left = (int(v) * step for v in rng.integers(0, (SIDE - side) // step + 1, 2))
            if all(
                top + side + 1 < t or t + s + 1 < top or left + side + 1 < le or le + s + 1 < left
                for (t, le), s in zip(corners, sides, strict=False)
            ):
                corners.append((top, left))
                break
        else:
            return None
    return corners


def draw_scene(rng: np.random.Generator, digit_set: str, least: int = 2, most: int = 4) -> Scene:
    """One random scene with `least` to `most` objects and digits of the named set."""
    while True:
        kinds = _kinds(rng, least, most)
        sides = [BOX_SIDE if shape == BOX else int(rng.integers(*_DIAMETER[size])) for shape, _, size in kinds]
        corners = _place(rng, sides, sum(shape == BOX for shape, _, _ in kinds))
        if corners is not None:
            break
    pixels = _ground(rng)
    owner = np.full(GRID * GRID, -1, np.int64)
    images, labels = digits(digit_set)
    things = []
    for n, ((shape, color, size), side, (top, left)) in enumerate(zip(kinds, sides, corners, strict=True)):
        paint = _RGB[color] + rng.uniform(-16, 16, 3).astype(np.float32)
        spot = pixels[top : top + side, left : left + side]  # [side,side,3]
        digit = -1
        mask = np.zeros((SIDE, SIDE), bool)
        if shape == BOX:
            pick = int(rng.integers(len(labels)))
            digit = int(labels[pick])
            ink = np.roll(images[pick], tuple(rng.integers(-1, 2, 2)), (0, 1))  # [24,24]
            mask[top : top + side, left : left + side] = True
            spot[:] = paint
            spot[FRAME:-FRAME, FRAME:-FRAME] = (20 + 225 * ink)[..., None]
        else:
            inside = _mask(shape, side)
            mask[top : top + side, left : left + side] = inside
            spot[inside] = paint + rng.standard_normal((int(inside.sum()), 1), np.float32) * 8
        cover = mask.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3)).ravel()  # [144]
        owner[cover >= _COVER] = n
        things.append(Thing(shape, color, size, digit, top, left, side))
    return Scene(np.clip(pixels, 0, 255).astype(np.uint8), tuple(things), owner)


def centre_patch(thing: Thing) -> int:
    """The patch that holds the middle of an object's square."""
    return (thing.top + thing.side // 2) // PATCH * GRID + (thing.left + thing.side // 2) // PATCH
