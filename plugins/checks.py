"""Checks of tensor arguments.

`check_finite` and `check_visual_index` read values, which on a GPU means waiting for it: only the references use them,
never a fake kernel, a graph or the CUDA form of an op. The others look at shapes and types alone.
"""

import torch

from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction


def check_rank(op: str, name: str, tensor: torch.Tensor, layout: str) -> None:
    """`layout` names the axes, e.g. "B,Nkv,S,D"."""
    if tensor.dim() != len(layout.split(",")):
        raise InputError(
            f"{op}: {name} must be [{layout}], found shape {list(tensor.shape)}; rows of a batch have the same sizes"
        )


def check_shape(op: str, name: str, tensor: torch.Tensor, shape: tuple[int, ...], layout: str) -> None:
    """`tensor` must have exactly `shape`, as the other arguments imply."""
    if tuple(tensor.shape) != tuple(shape):
        raise InputError(
            f"{op}: {name} must be [{layout}] = {list(shape)} to fit the other inputs, found {list(tensor.shape)}"
        )


def check_finite(op: str, name: str, tensor: torch.Tensor) -> None:
    """A NaN or infinity has no place in an order of tokens."""
    # A finite sum has finite terms only; without one (it may just be large) the terms are looked at.
    if not bool(tensor.sum().isfinite()) and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise InputError(
            f"{op}: {name} has {bad} values that are NaN or infinite; "
            f"the model overflows in {tensor.dtype} or its weights are broken"
        )


def check_visual_index_shape(op: str, visual_index: torch.Tensor, batch: int) -> None:
    """int64 [B,V]."""
    check_rank(op, "visual_index", visual_index, "B,V")
    if visual_index.dtype != torch.int64:
        raise InputError(f"{op}: visual_index must be int64, found {visual_index.dtype}")
    if visual_index.shape[0] != batch:
        raise InputError(f"{op}: visual_index has {visual_index.shape[0]} rows, the batch has {batch}")


def check_visual_index(op: str, visual_index: torch.Tensor, batch: int, num_positions: int) -> None:
    """int64 [B,V], each row strictly ascending within 0..S-1."""
    check_visual_index_shape(op, visual_index, batch)
    if visual_index.shape[1] == 0 or batch == 0:
        return
    lowest, highest = int(visual_index.min()), int(visual_index.max())
    if lowest < 0 or highest >= num_positions:
        raise InputError(f"{op}: visual_index must lie in 0..{num_positions - 1}, found {lowest}..{highest}")
    if bool((visual_index[:, 1:] <= visual_index[:, :-1]).any()):
        raise InputError(
            f"{op}: visual_index must ascend strictly within each row: the visual tokens in the order of the sequence"
        )


def check_fraction(op: str, name: str, fraction: Fraction) -> None:
    """num >= 0, den >= 1."""
    num, den = fraction
    if den < 1 or num < 0:
        raise InputError(f"{op}: {name} must be a fraction num/den with num >= 0 and den >= 1, found {num}/{den}")
