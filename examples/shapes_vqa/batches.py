"""Batches of fresh scenes for training: pixels, labels of every patch, and packed questions.

Shapes: B images, V patches (144), Q questions an image, L words in a question's slot.
"""

from dataclasses import dataclass

import numpy as np
import torch
from questions import TYPES, ask_many
from shapes import BOX, COLORS, GRID, SHAPES, Scene, centre_patch, draw_scene
from words import EOS, INDEX, PAD, encode

SLOT = 9  # the longest question has eight words; one more for its answer
IGNORE = -100  # cross entropy skips these


@dataclass(frozen=True)
class PatchLabels:
    """What each patch shows, int64 [B,V]; and what the class token should know, float32 [B,labels]."""

    shape: torch.Tensor  # 0 ground, then SHAPES, then the box
    color: torch.Tensor
    size: torch.Tensor
    digit: torch.Tensor
    centre: torch.Tensor  # 1 where an object has its middle
    present: torch.Tensor  # shapes, box, colors and digits that are in the image


NUM_PRESENT = len(SHAPES) + 1 + len(COLORS) + 10


def draw_batch(rng: np.random.Generator, count: int, digit_set: str, least: int, most: int) -> list[Scene]:
    return [draw_scene(rng, digit_set, least, most) for _ in range(count)]


def stack_pixels(scenes: list[Scene]) -> torch.Tensor:
    """uint8 [B,96,96,3]."""
    return torch.from_numpy(np.stack([s.pixels for s in scenes]))


def patch_labels(scenes: list[Scene]) -> PatchLabels:
    """Labels of the auxiliary heads: each patch of an object tells all about the whole object."""
    num_patches = GRID * GRID
    table = np.full((4, len(scenes), num_patches), IGNORE, np.int64)
    table[0] = 0
    centre = np.zeros((len(scenes), num_patches), np.int64)
    present = np.zeros((len(scenes), NUM_PRESENT), np.float32)
    for b, scene in enumerate(scenes):
        for n, thing in enumerate(scene.things):
            on = scene.owner == n
            box = thing.shape == BOX
            table[0, b, on] = thing.shape + 1
            table[1, b, on] = thing.color
            table[2, b, on] = IGNORE if box else thing.size
            table[3, b, on] = thing.digit if box else IGNORE
            centre[b, centre_patch(thing)] = 1
            present[b, [thing.shape, BOX + 1 + thing.color]] = 1
            if box:
                present[b, BOX + 1 + len(COLORS) + thing.digit] = 1
    return PatchLabels(*map(torch.from_numpy, (*table, centre, present)))


def pack_questions(rng: np.random.Generator, scenes: list[Scene], count: int):
    """Words [B,Q,L], places of last question word and answer [B,Q,2], what follows them [B,Q,2], type [B,Q]."""
    words = np.full((len(scenes), count, SLOT), PAD, np.int64)
    at = np.zeros((len(scenes), count, 2), np.int64)
    follows = np.full((len(scenes), count, 2), EOS, np.int64)
    kinds = np.zeros((len(scenes), count), np.int64)
    for b, scene in enumerate(scenes):
        for q, (kind, prompt, answer) in enumerate(ask_many(rng, scene, count)):
            tokens = [*encode(prompt), INDEX[answer]]
            words[b, q, : len(tokens)] = tokens
            at[b, q] = len(tokens) - 2, len(tokens) - 1
            follows[b, q, 0] = tokens[-1]
            kinds[b, q] = TYPES.index(kind)
    return tuple(map(torch.from_numpy, (words, at, follows, kinds)))
