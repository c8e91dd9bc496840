"""Tensors in the layouts that the kernels read and write."""

import torch

from vitcop.plugins.cuda.library import DTYPES


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, of a type that the kernels know."""
    return (tensor if tensor.dtype in DTYPES else tensor.float()).contiguous()


def with_dense_rows(keys: torch.Tensor) -> torch.Tensor:
    """Keys [B,N,S,D] of a type that the kernels know, each row of D contiguous; any order of the other axes."""
    keys = keys if keys.dtype in DTYPES else keys.float()
    return keys if keys.stride(-1) == 1 else keys.contiguous()


def empty_selection(
    visual_index: torch.Tensor, num_positions: int, num_kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for kept_positions [B,S-V+K], new_visual_index [B,K] and kept_visual [B,K]."""
    batch, num_visual = visual_index.shape
    widths = (num_positions - num_visual + num_kept, num_kept, num_kept)
    first, second, third = (visual_index.new_empty((batch, width)) for width in widths)
    return first, second, third
