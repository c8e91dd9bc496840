"""Logits: log-probabilities and likeliest tokens. NumPy only."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis, in fp64; NaN throughout a row that holds NaN or +inf."""
    with np.errstate(invalid="ignore"):
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def is_likeliest(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """bool [T]: is each of the tokens [T] the likeliest by the logits [T,vocab] (of equals the lowest id)?"""
    return logits.argmax(axis=-1) == tokens
