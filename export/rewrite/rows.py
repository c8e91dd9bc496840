"""`vitcop::gather_rows`: the row gather that all drops share.

torch.gather would need the index expanded over the hidden axis and lowers to Expand + GatherElements; this one op
lowers to a single GatherND with a batch axis, which moves whole rows.
"""

import torch
from torch import Tensor


@torch.library.custom_op("vitcop::gather_rows", mutates_args=())
def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B,S,…], index int64 [B,K] -> [B,K,…]: row index[b,k] of batch b."""
    batch = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
    return rows[batch, index]


@gather_rows.register_fake
def _(rows: Tensor, index: Tensor) -> Tensor:
    return rows.new_empty((*index.shape, *rows.shape[2:]))


GATHER_ROWS = torch.ops.vitcop.gather_rows.default
