"""Which drops a sensitivity table tries: the layers and the keep counts of its cells. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitcop.calibrate.schedule.choices import AT_INPUT
from vitcop.calibrate.schedule.presets import paper_layers

NUM_LAYERS = 12
"""Up to this many drop layers by default; a model of few layers is tried at each."""

NUM_KEEPS = 8
LEAST_SHARE = 1 / 40
"""The smallest keep count as a share of the visual tokens: the paper's last stage at budget 1/9 keeps 15 of 576."""


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """Down to `keep` visual tokens before decoder layer `layer` (AT_INPUT: in the vision stage), by whatever rule."""

    layer: int
    keep: int


def candidate_layers(num_layers: int, limit: int = NUM_LAYERS) -> tuple[int, ...]:
    """Decoder layers before which a drop is tried, ascending: all of 1..L-1, or about `limit` of them evenly spread,
    with the first and the paper's among them."""
    if num_layers - 1 <= limit:
        return tuple(range(1, num_layers))
    spread = (max(1, round(i * num_layers / limit)) for i in range(1, limit))
    return tuple(sorted({1, *paper_layers(num_layers), *spread}))


def keep_counts(num_visual: int, *, num: int = NUM_KEEPS, least: float = LEAST_SHARE) -> tuple[int, ...]:
    """A falling geometric ladder of at most `num` counts from below `num_visual` to `least` of it; a few tokens give
    fewer counts."""
    counts = {max(1, round(num_visual * least ** (i / num))) for i in range(1, num + 1)}
    return tuple(sorted((count for count in counts if count < num_visual), reverse=True))


def cells(
    num_layers: int, num_visual: int, *, layers: Sequence[int] | None = None, keeps: Sequence[int] | None = None
) -> tuple[Cell, ...]:
    """The cells of a table, by layer (AT_INPUT first) and falling keep count."""
    layers = (AT_INPUT, *candidate_layers(num_layers)) if layers is None else layers
    keeps = keep_counts(num_visual) if keeps is None else keeps
    return tuple(Cell(layer=layer, keep=keep) for layer in layers for keep in keeps)
