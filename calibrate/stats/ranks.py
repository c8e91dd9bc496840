"""Rank agreement: how alike two orders of the same tokens are. NumPy only.

Shape letters: B samples, V visual tokens.
"""

import numpy as np


def average_ranks(values_BV: np.ndarray) -> np.ndarray:
    """Rank of each entry in its row, from 1 up; equal entries share the mean of their ranks. fp64 [B,V]."""
    order_BV = np.argsort(values_BV, axis=1, kind="stable")
    sorted_BV = np.take_along_axis(values_BV, order_BV, axis=1)
    places_V = np.arange(values_BV.shape[1])
    begins_BV, ends_BV = np.ones((2, *values_BV.shape), dtype=bool)
    begins_BV[:, 1:] = ends_BV[:, :-1] = sorted_BV[:, 1:] != sorted_BV[:, :-1]
    first_BV = np.maximum.accumulate(np.where(begins_BV, places_V, 0), axis=1)
    last_BV = np.minimum.accumulate(np.where(ends_BV, places_V, values_BV.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks_BV = np.empty(values_BV.shape)
    np.put_along_axis(ranks_BV, order_BV, (first_BV + last_BV) / 2 + 1, axis=1)
    return ranks_BV


def rank_agreement(a_BV: np.ndarray, b_BV: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of two arrays of ranks: fp64 [B] in [-1, 1]; 0 where one of them has all ranks
    equal, and so tells nothing."""
    if a_BV.shape[1] < 2:
        return np.zeros(len(a_BV))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a_BV, b_BV))
    scale_B = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    ranked_B = scale_B > 0
    return np.where(ranked_B, (a * b).sum(axis=1), 0.0) / np.where(ranked_B, scale_B, 1.0)


def spearman(a_BV: np.ndarray, b_BV: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row, ties by average ranks: as `rank_agreement`."""
    return rank_agreement(average_ranks(a_BV), average_ranks(b_BV))


def first_places(scores_BV: np.ndarray, count: int) -> np.ndarray:
    """The `count` tokens of largest score, equals by lowest index as in a selection: int64 [B,count]."""
    return np.argsort(-scores_BV, axis=1, kind="stable")[:, :count]


def held_share(weights_BV: np.ndarray, places_BK: np.ndarray) -> np.ndarray:
    """Share of the weights (at least 0) that lies on these tokens: fp64 [B]; K / V where all weights are 0."""
    weights_BV = weights_BV.astype(np.float64)
    held_B, all_B = np.take_along_axis(weights_BV, places_BK, axis=1).sum(axis=1), weights_BV.sum(axis=1)
    some_B = all_B > 0
    even = places_BK.shape[1] / max(1, weights_BV.shape[1])
    return np.where(some_B, held_B, even) / np.where(some_B, all_B, 1.0)
