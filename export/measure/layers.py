"""Layer by layer: how far the keys and values of an engine are from PyTorch's, at real positions only.

Padded positions hold values of fully masked queries, which mean nothing and differ between any two implementations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

KeysValues = Sequence[tuple[np.ndarray, np.ndarray]]


def torch_kv(state: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys and values of each layer in the decode state of a PyTorch runner, fp32 [B,Nkv,P,D]."""
    return [
        tuple(tensor.detach().float().cpu().numpy() for tensor in (layer.keys, layer.values))
        for layer in state.cache.layers
    ]


def layer_deviations(
    reference: KeysValues, other: KeysValues, lengths: Sequence[int], num_padding_B: np.ndarray, rows: Sequence[int]
) -> np.ndarray:
    """Greatest absolute deviation of keys and values in each layer, over some rows of a batch.

    Args:
        lengths: prompt KV length of each layer; what decoding has appended after it is left out.
        num_padding_B: int [B], padded positions at the left of each row.
        rows: rows to compare.

    Returns fp64 [L]; infinite where the shapes differ or a value is not finite.
    """
    worst = np.zeros(len(reference))
    for layer, (ours, theirs, length) in enumerate(zip(reference, other, lengths, strict=True)):
        for left, right in zip(ours, theirs, strict=True):
            if min(left.shape[2], right.shape[2]) < length:
                worst[layer] = np.inf
                continue
            for row in rows:
                begin = int(num_padding_B[row])
                gap = np.abs(left[row, :, begin:length].astype(np.float64) - right[row, :, begin:length])
                highest = float(gap.max()) if gap.size else 0.0
                worst[layer] = max(worst[layer], highest if np.isfinite(highest) else np.inf)
    return worst


def layer_magnitudes(
    reference: KeysValues, lengths: Sequence[int], num_padding_B: np.ndarray, rows: Sequence[int]
) -> np.ndarray:
    """Largest magnitude among keys and values of each layer at the same positions as `layer_deviations`: fp64 [L]."""
    largest = np.zeros(len(reference))
    for layer, (pair, length) in enumerate(zip(reference, lengths, strict=True)):
        for tensor in pair:
            for row in rows:
                part = tensor[row, :, int(num_padding_B[row]) : length]
                largest[layer] = max(largest[layer], float(np.abs(part).max(initial=0.0)))
    return largest
