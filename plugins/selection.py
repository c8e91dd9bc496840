"""The half that all dropping ops share: from a choice of visual tokens to positions in the sequence.

Ties go to the lowest index (stable sorts, since torch.topk promises no order), kept tokens stay in their order.
"""

import torch

from vitcop.plugins.spec import Fraction, keep_count


def pick(scores_BV: torch.Tensor, keep: Fraction, largest: bool) -> torch.Tensor:
    """kept_visual [B,K]: the ascending indices of the K smallest (or largest) scores, compared in fp32."""
    num_kept = keep_count(scores_BV.shape[1], keep)
    order_BV = scores_BV.float().sort(dim=1, descending=largest, stable=True).indices
    return order_BV[:, :num_kept].sort(dim=1).values


def after_drop(
    kept_visual_BK: torch.Tensor, visual_index_BV: torch.Tensor, num_positions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a sequence of S positions becomes when of its V visual tokens only `kept_visual` stay.

    Returns kept_positions [B,S-V+K] (ascending, into the present sequence) and the visual index [B,K] into the
    shorter one.
    """
    batch, num_visual = visual_index_BV.shape
    num_left = num_positions - num_visual + kept_visual_BK.shape[1]
    kept_old_BK = visual_index_BV.gather(1, kept_visual_BK)
    stays_BS = visual_index_BV.new_ones(batch, num_positions).scatter(1, visual_index_BV, 0).scatter(1, kept_old_BK, 1)
    visual_index_BK = stays_BS.cumsum(1).gather(1, kept_old_BK) - 1
    # Dropped positions sort behind all others.
    positions_S = torch.arange(num_positions, device=visual_index_BV.device)
    order_BS = (positions_S + (1 - stays_BS) * num_positions).sort(dim=1).values
    return order_BS[:, :num_left].contiguous(), visual_index_BK
