"""Near-ties: kept tokens may differ between PyTorch and an engine only where PyTorch's own scores are as good as equal.

Sums in another order differ in the last bits, so two tokens whose scores lie within 16 ulp of the computing float type
may swap places: of fp32 in an fp32 bundle, of fp16 where keys and features are fp16. Any larger gap is an error of the
engine. Clusters depend on all features at once, so there is no one gap to look at: an engine may have other ones only
if PyTorch finds those very clusters when the features move at random by as much.
"""

import math
from typing import Literal

import numpy as np

from vitcop.calibrate.run.runner import DropTrace, Prefill

NEAR_TIE_ULP = 16

_FORMATS = {"float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126)}
"""(bits of the mantissa, least exponent of a normal number) of each float type."""

Verdict = Literal["same", "near_tie", "different"]


def ulp_at(value: float, dtype: str) -> float:
    """The gap between a float type's neighbouring numbers at a magnitude."""
    bits, least = _FORMATS[dtype]
    return math.ldexp(1.0, max(math.frexp(value)[1] - 1 if value else least, least) - bits)


def is_near_tie(scores_a: np.ndarray, scores_b: np.ndarray, dtype: str = "float32") -> bool:
    """True where every score of `a` is within 16 ulp of every score of `b`.

    An ulp is that of `dtype`, in which the bundle computes, at the largest of the scores (which are held as fp32).
    """
    both = np.concatenate([scores_a, scores_b]).astype(np.float32)
    if not len(scores_a) or not len(scores_b) or not np.isfinite(both).all():
        return False
    gap = both.astype(np.float64).max() - both.astype(np.float64).min()
    return bool(gap < NEAR_TIE_ULP * ulp_at(float(np.abs(both).max()), dtype))


def compare_traces(reference: DropTrace, other: DropTrace, row: int, dtype: str = "float32") -> Verdict:
    """One stage of one sample: did both keep (or merge) the same tokens? `reference` tells the scores."""
    if reference.assignment is not None and other.assignment is not None:
        ours, theirs = reference.assignment[row], other.assignment[row]
        if ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-5):
            same = np.array_equal(reference.kept_visual[row], other.kept_visual[row])
            return "same" if same else "different"
        # Within a cluster the tokens of least score stay as they are; those are the ones that a near-tie may swap.
        kept, found = _unmerged(ours), _unmerged(theirs)
    else:
        kept, found = reference.kept_visual[row], other.kept_visual[row]
        if np.array_equal(kept, found):
            return compare_labels(reference, other, row, dtype)
    lost, gained = np.setdiff1d(kept, found), np.setdiff1d(found, kept)
    if reference.scores is None or len(lost) != len(gained) or not len(lost):
        return "different"
    scores = reference.scores[row]
    return "near_tie" if is_near_tie(scores[lost], scores[gained], dtype) else "different"


def compare_labels(reference: DropTrace, other: DropTrace, row: int, dtype: str = "float32") -> Verdict:
    """Of one sample's clusters, where both tell them."""
    if reference.labels is None or other.labels is None or np.array_equal(reference.labels[row], other.labels[row]):
        return "same"
    if reference.relabel is None:
        return "different"
    moved = reference.relabel(row, NEAR_TIE_ULP * ulp_at(1.0, dtype))
    return "near_tie" if (moved == other.labels[row]).all(axis=1).any() else "different"


def compare_stages(reference: Prefill, other: Prefill, row: int, dtype: str = "float32") -> tuple[Verdict, ...]:
    """The verdicts of the vision stage (where there is one) and of each drop, up to the first that is not "same".

    Later stages choose among other tokens then, so their indices mean nothing to each other.
    """
    pairs = list(zip(reference.drops, other.drops, strict=True))
    if (reference.vision is None) != (other.vision is None):
        return ("different",)
    if reference.vision is not None and other.vision is not None:
        pairs.insert(0, (reference.vision, other.vision))
    verdicts: list[Verdict] = []
    for ours, theirs in pairs:
        verdicts.append(compare_traces(ours, theirs, row, dtype))
        if verdicts[-1] != "same":
            break
    return tuple(verdicts)


def _unmerged(assignment: np.ndarray) -> np.ndarray:
    """Tokens that come out as they went in: columns of assignment [R,V] whose row has a 1 there and nothing else. By
    sum a merged group of one token is a 2; by mean it is what the token was."""
    alone = (assignment != 0).sum(axis=1) == 1
    return np.flatnonzero((assignment[alone] == 1).any(axis=0))
