"""What crosses a drop point, and what a drop point makes of it: tensors of static shapes, no value is read back.

Shape letters: B batch, S sequence, V visual tokens now present, R visual tokens after a drop, H hidden.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from vitcop.calibrate.run.device_inputs import rows_of
from vitcop.calibrate.run.runner import DropTrace
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.plugins import ops


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What crosses a drop point.

    Args:
        hidden: [B,S,H].
        positions: int64 [B,S] position ids, or [B,S,4] with three axes.
        mask: bool [B,S], True at real tokens.
        visual_index: int64 [B,V], where the visual tokens stand, ascending.
        saliency: fp32 [B,V] carried from stage I, or None.
        labels: int64 [B,V] clusters, or None.
        planes: [B,V,H] each, added to the visual tokens after the first layers, the next one first (DeepStack).
    """

    hidden: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    visual_index: torch.Tensor
    saliency: torch.Tensor | None
    labels: torch.Tensor | None
    planes: tuple[torch.Tensor, ...] = ()

    def with_next_plane(self) -> "Stream":
        """The next feature plane, if one is left, added to the visual tokens."""
        if not self.planes:
            return self
        first, *others = self.planes
        index_BVH = self.visual_index.unsqueeze(-1).expand_as(first)
        return replace(self, hidden=self.hidden.scatter_add(1, index_BVH, first.to(self.hidden)), planes=(*others,))


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A DropTrace that is still on the device: kept_visual int64 [B,R], scores fp32 [B,V], assignment fp32 [B,R,V],
    labels int64 [B,R]."""

    kept_visual: torch.Tensor
    scores: torch.Tensor | None
    assignment: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    relabel: Callable[[int, float], np.ndarray] | None = None

    def trace(self) -> DropTrace:
        """On the host."""
        return DropTrace(
            kept_visual=self.kept_visual.cpu().numpy(),
            scores=None if self.scores is None else self.scores.cpu().numpy(),
            assignment=None if self.assignment is None else self.assignment.cpu().numpy(),
            labels=None if self.labels is None else self.labels.cpu().numpy(),
            relabel=self.relabel,
        )


def drop_tokens(schedule: Schedule, drop: Drop, stream: Stream, scores_BV: torch.Tensor) -> tuple[Stream, Dropped]:
    """One drop point of a schedule, by the scores of the visual tokens."""
    assignment_BRV = None
    if drop.op == "merge":
        assert schedule.vision is not None and schedule.vision.clusters is not None, "a merge needs clusters"
        # The op keeps what scores least, so "largest" turns the order round by the sign.
        hidden_BSH, kept_positions, visual_index_BR, kept_visual_BR, assignment_BRV = ops.cluster_merge(
            stream.hidden,
            stream.visual_index,
            scores_BV if drop.order == "smallest" else -scores_BV,
            stream.labels,
            num_clusters=schedule.vision.clusters.centers,
            keep=drop.keep,
            merge=drop.merge,
        )
    else:
        kept_positions, visual_index_BR, kept_visual_BR = ops.score_select(
            scores_BV, stream.visual_index, stream.hidden.shape[1], keep=drop.keep, order=drop.order
        )
        hidden_BSH = stream.hidden.gather(1, kept_positions.unsqueeze(-1).expand(-1, -1, stream.hidden.shape[-1]))
    after = Stream(
        hidden=hidden_BSH,
        positions=rows_of(stream.positions, kept_positions),
        mask=stream.mask.gather(1, kept_positions),
        visual_index=visual_index_BR,
        saliency=None if stream.saliency is None else stream.saliency.gather(1, kept_visual_BR),
        labels=None if stream.labels is None else stream.labels.gather(1, kept_visual_BR),
        planes=tuple(_combine(plane, kept_visual_BR, assignment_BRV) for plane in stream.planes),
    )
    return after, Dropped(kept_visual=kept_visual_BR, scores=scores_BV, assignment=assignment_BRV)


def _combine(plane_BVH: torch.Tensor, kept_BR: torch.Tensor, assignment_BRV: torch.Tensor | None) -> torch.Tensor:
    """A plane after a drop: a merge combines it as it combined the hidden states that it will be added to."""
    if assignment_BRV is None:
        return rows_of(plane_BVH, kept_BR)
    return torch.matmul(assignment_BRV, plane_BVH.float()).to(plane_BVH.dtype)
