"""`vitcop::gather_rows` and `vitcop::put_rows`: whole rows [B,·,H] taken and set by an index [B,K].

torch.gather and torch.scatter would need the index expanded over the hidden axis, and lower to GatherElements and
ScatterElements, which move single numbers. These lower to GatherND and ScatterND, which move rows.
"""

import torch
from torch import Tensor


@torch.library.custom_op("vitcop::gather_rows", mutates_args=())
def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B,S,…], index int64 [B,K] -> [B,K,…]: row index[b,k] of batch b."""
    return rows[_batch(index), index]


@gather_rows.register_fake
def _(rows: Tensor, index: Tensor) -> Tensor:
    return rows.new_empty((*index.shape, *rows.shape[2:]))


@torch.library.custom_op("vitcop::put_rows", mutates_args=())
def put_rows(rows: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """rows [B,S,H] with values [B,K,H] in the rows index int64 [B,K], which differ within a batch."""
    result = rows.clone()
    result[_batch(index), index] = values
    return result


@put_rows.register_fake
def _(rows: Tensor, index: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(rows)


def _batch(index: Tensor) -> Tensor:
    return torch.arange(index.shape[0], device=index.device).unsqueeze(1)


GATHER_ROWS = torch.ops.vitcop.gather_rows.default
PUT_ROWS = torch.ops.vitcop.put_rows.default
