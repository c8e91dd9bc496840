"""Random rows for density-peak clusters: on lattices, where fp32 is exact and ties abound, and continuous ones.

A row is K tokens of 8 features. On a lattice these are integers, so small that products, norms and squared distances
are exact in every form of the op and every float type; tokens that a symmetry maps onto each other have equal
densities, and only the tie-breaking tells them apart.
"""

import dataclasses
import math
import random

import torch

from vitcop.plugins.spec import Fraction

NUM_FEATURES = 8


def _padded(coordinates):
    """[K,d] integers -> features [K,8]."""
    return torch.nn.functional.pad(coordinates.float(), (0, NUM_FEATURES - coordinates.shape[1]))


def scattered(count, generator):
    """Integer points in a cube: many equal distances, some duplicates."""
    return _padded(torch.randint(0, 5, (count, 3), generator=generator))


def grid(count, generator):
    """A square filled line by line; the last line may be short."""
    width = max(1, math.isqrt(count))
    place = torch.arange(count)
    return _padded(torch.stack([place % width, place // width], dim=1))


def ring(count, generator):
    """The rim of a square, shuffled: mirror images and turns tie, and their order is no help."""
    side = math.ceil(count / 4)
    step, edge = torch.arange(count) % side, torch.arange(count) // side
    zero, full = torch.zeros_like(step), torch.full_like(step, side)
    x = torch.stack([step, full, full - step, zero]).gather(0, edge.unsqueeze(0))[0]
    y = torch.stack([zero, step, full, full - step]).gather(0, edge.unsqueeze(0))[0]
    return _padded(torch.stack([x, y], dim=1))[torch.randperm(count, generator=generator)]


def corners(count, generator):
    """Corners of a cube of 8 dimensions: one plateau of density where all are there, almost one where some are not."""
    place = torch.randperm(2**NUM_FEATURES, generator=generator).repeat(math.ceil(count / 2**NUM_FEATURES))[:count]
    return (place.unsqueeze(1) >> torch.arange(NUM_FEATURES) & 1).float()


def duplicates(count, generator):
    """A few points, each of them many times."""
    points = torch.randint(0, 6, (max(1, count // 6), 2), generator=generator)
    return _padded(points[torch.randint(0, len(points), (count,), generator=generator)])


def equal(count, generator):
    """One token, K times."""
    return torch.randint(-3, 4, (1, NUM_FEATURES), generator=generator).float().repeat(count, 1)


def far(count, generator):
    """Points so far apart that all nearness underflows: the density is the number of duplicates."""
    return 1024 * scattered(count, generator)


def normal(count, generator):
    return torch.randn(count, NUM_FEATURES, generator=generator)


def blobs(count, generator):
    """A handful of clouds, as keys of image patches are."""
    middles = 1.5 * normal(5, generator)
    return middles[torch.randint(0, 5, (count,), generator=generator)] + 0.5 * normal(count, generator)


def fine_blobs(count, generator):
    """The same on a lattice of 1/64, whose squared distances fp32 still holds."""
    return (64 * blobs(count, generator)).round() / 64


LATTICES = (scattered, grid, ring, corners, duplicates, equal, far)

RADII = (0.0, 0.125, 0.3, 0.6, 0.625, 2.0)
"""With positions in sixteenths some pairs are exactly 0.125 or 0.625 apart: within reach."""

CENTERS = ((18, 100), (15, 100), (1, 2), (1, 1), (1, 1000), (0, 1), (7, 5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterCase:
    features: torch.Tensor
    positions: torch.Tensor
    group_ids: torch.Tensor
    centers: Fraction
    cutoff_distance: float
    cutoff_quantile: float | None
    spatial_radius: float


def draw(kinds, count, seed):
    """K = `count` tokens of each of `kinds`, one row each, and settings that fit them.

    The cutoff is of the size of the largest distance or a large quantile, so that no token's share in a density is lost
    in fp32; except for `far`, where all are.
    """
    choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    features = torch.stack([kind(count, generator) for kind in kinds])
    positions = torch.rand(len(kinds), count, 2, generator=generator)
    group_ids = {
        "one": torch.zeros(count, dtype=torch.int64),
        "mixed": torch.randint(0, 3, (count,), generator=generator),
        "tiles": torch.arange(count) * 3 // max(count, 1) - 7,
        "own": torch.arange(count),
    }[choice.choice(["one", "one", "mixed", "tiles", "own"])]
    extent = float((features - features[:, :1]).norm(dim=2).max())
    in_quarters = max(1, round(4 * choice.choice([0.5, 0.75, 1.5]) * extent)) / 4
    return ClusterCase(
        features=features,
        positions=choice.choice([positions, (16 * positions).floor() / 16]),
        group_ids=group_ids.repeat(len(kinds), 1),
        centers=choice.choice(CENTERS),
        cutoff_distance=8.0 if far in kinds else in_quarters,
        cutoff_quantile=choice.choice([None, None, 0.3, 0.75, 1.0]),
        spatial_radius=choice.choice(RADII),
    )
