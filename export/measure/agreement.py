"""How far two runners agree: logits fp32 [T,vocab], top-1 tokens, greedy answers, kept tokens."""

from collections.abc import Sequence

import numpy as np

from vitcop.calibrate.run.logits import is_likeliest, log_softmax


def logit_kl(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(reference ‖ other) of each step, in nats: [T,vocab] twice -> fp64 [T]."""
    p, q = log_softmax(reference), log_softmax(other)
    return np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0)


def top1_agreement(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool [T]: do both choose the same token (of equals the lowest id)?"""
    return is_likeliest(reference.argmax(axis=-1), other)


def max_deviation(reference: np.ndarray, other: np.ndarray) -> float:
    """Greatest absolute difference; infinite where one of them holds a NaN, so that no gate lets it through."""
    if not reference.size:
        return 0.0
    worst = float(np.abs(reference.astype(np.float64) - other.astype(np.float64)).max())
    return worst if np.isfinite(worst) else float("inf")


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix of two token lists."""
    length = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        length += 1
    return length


def kept_agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Share of the reference's kept tokens that the other kept too (both [K])."""
    return len(np.intersect1d(reference, other)) / len(reference) if len(reference) else 1.0
