"""The distribution of key norms in a decoder layer: sample by sample, and over a set. NumPy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def norm_rows(norms_BV: np.ndarray) -> list[list[float]]:
    """Of each sample: count, mean, std, min, max, and the quantiles."""
    norms_BV = norms_BV.astype(np.float64)
    quantiles_QB = np.quantile(norms_BV, QUANTILES, axis=1)
    return [
        [len(row), float(row.mean()), float(row.std()), float(row.min()), float(row.max()), *map(float, quantiles)]
        for row, quantiles in zip(norms_BV, quantiles_QB.T, strict=True)
    ]


def summary(rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of all samples together: mean, std, min and max over every visual token; quantiles are those of a sample, mean
    over the samples, since quantiles of a whole do not follow from those of its parts."""
    count, mean, std, low, high, *quantiles = np.asarray(rows, dtype=np.float64).T
    total = count.sum()
    center = float((count * mean).sum() / total)
    square = float((count * (std**2 + (mean - center) ** 2)).sum() / total)
    return {
        "mean": center,
        "std": square**0.5,
        "min": float(low.min()),
        "max": float(high.max()),
        "quantiles": {f"{share:g}": float(values.mean()) for share, values in zip(QUANTILES, quantiles, strict=True)},
    }
