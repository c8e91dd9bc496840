"""How far a pruned model's answers are from the original's, and how good they are."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vitcop.calibrate.evaluate.targets import Target
from vitcop.calibrate.run.logits import is_likeliest, log_softmax
from vitcop.calibrate.stats.intervals import standard_error


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its standard error: standard deviation / √n, or the one that is robust to clusters
    (`intervals.standard_error`); 0 for one sample or cluster, infinite where a value is not finite."""

    mean: float
    error: float
    num: int

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[Hashable] | None = None) -> "Estimate":
        """Of at least one value; `groups` tells which are not independent (the image of each sample)."""
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            return cls(float(array.mean()), math.inf, len(array))
        return cls(float(array.mean()), standard_error(array, groups), len(array))


def kl_divergence(target: Target, logits: np.ndarray) -> float:
    """KL(original ‖ pruned) in nats, mean over the answer tokens.

    Σ_k p_k·(log p_k − log q_k) over the original's k likeliest tokens, all others taken as one outcome: a lower bound
    of the KL over the whole vocabulary, exact where k covers it. NaN where the logits hold NaN or +inf.

    Args:
        logits: fp32 [T,vocab] of the pruned model before each token of the original's answer.
    """
    logq = log_softmax(logits)
    top_logq = np.take_along_axis(logq, target.top_ids, axis=-1)
    top_logp = target.top_logprobs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        kl_T = np.where(top_logp == -np.inf, 0.0, np.exp(top_logp) * (top_logp - top_logq)).sum(axis=-1)
    if target.top_ids.shape[1] < logits.shape[-1]:
        others = np.exp(logq)
        np.put_along_axis(others, target.top_ids, 0.0, axis=-1)
        p, q = target.rest.astype(np.float64), np.maximum(others.sum(axis=-1), 1e-30)
        kl_T = kl_T + np.where(p > 0, p * (np.log(np.maximum(p, 1e-30)) - np.log(q)), 0.0)
    # Rounding of the stored log-probabilities can leave a few 1e-8 below zero.
    return float(np.maximum(kl_T.mean(), 0.0))


def top1_agreement(target: Target, logits: np.ndarray) -> float:
    """Share of the answer tokens at which both have the same likeliest token."""
    return float(is_likeliest(target.top_ids[:, 0], logits).mean())
