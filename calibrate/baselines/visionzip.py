"""VisionZip (Yang et al., CVPR 2025, arXiv 2412.04467): all before the language model, which sees one length.

Dominant tokens are those that the class token pays the most attention to (without a class token: the first of the
encoder's other scores). Of the rest every n-th is a target; each other token joins the target whose key is most like
its own (cosine, all heads side by side), and each group becomes one contextual token at its target's place. Of 64
tokens 54 are dominant in the paper; the same share here.

The published rule merges what the encoder gives to the projector, here what the projector gives to the language model
is merged, since towers of other families have no such seam. Scores and merging look at all tokens of a prompt at once.

Shape letters: B batch, V visual tokens, K dominant, C contextual, R others, H hidden.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch

from vitcop.calibrate.run.device_inputs import rows_of
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache, VisionKept, VisionOutput, token_keys, vision_scores
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.spec import Fraction, keep_count

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family

DOMINANT: Fraction = (54, 64)
"""Share of the kept tokens that are dominant, in the paper."""


class VisionZip:
    """Args: merge: what becomes of a group: "mean" of all its tokens, or "sum" of the target and the mean of the
    others."""

    def __init__(self, merge: Literal["mean", "sum"] = "mean") -> None:
        self.name = "visionzip"
        self.merge = merge

    def counts(self, num_visual: int, budget: float) -> tuple[int, int] | None:
        """(dominant, contextual) tokens; None where the budget asks for less than half a token."""
        kept = int(budget * num_visual + 0.5)
        if not kept:
            return None
        dominant = max(1, int(kept * DOMINANT[0] / DOMINANT[1] + 0.5))
        return dominant, kept - dominant

    def layer_counts(self, num_layers: int, num_visual: int, budget: float) -> tuple[int, ...] | None:
        counts = self.counts(num_visual, budget)
        return None if counts is None else (sum(counts),) * num_layers

    def runner(
        self, model: Any, family: "Family", vision: VisionCache | None, *, budget: float, num_visual: int
    ) -> Runner | None:
        counts = self.counts(num_visual, budget)
        if counts is None:
            return None
        dominant, contextual = counts
        score = family.vision_scores[0]

        def keep(output: VisionOutput) -> VisionKept:
            present = output.planes[0].shape[1]
            first = keep_count(present, (dominant, num_visual))
            merged = keep_count(present, (contextual, num_visual)) if contextual else 0
            return zip_tokens(output, score, first, min(merged, present - first), self.merge)

        schedule = Schedule(num_layers=family.num_layers)
        return ScheduledRunner(model, family, schedule, name=self.name, vision=vision, keep=keep)


def zip_tokens(
    output: VisionOutput, score: str, dominant: int, contextual: int, merge: Literal["mean", "sum"] = "mean"
) -> VisionKept:
    """Keep `dominant` tokens by a score of the vision stage and make `contextual` ones of the others."""
    scores_BV = vision_scores(output, score)
    # A stable sort gives ties to the lowest index, as all operations do.
    order_BV = scores_BV.argsort(dim=1, descending=True, stable=True)
    dominant_BK = order_BV[:, :dominant]
    rest_BR = order_BV[:, dominant:].sort(dim=1).values
    if not contextual:
        kept_BK = dominant_BK.sort(dim=1).values
        planes = tuple(rows_of(plane, kept_BK) for plane in output.planes)
        return VisionKept(planes=planes, kept_patches=kept_BK, scores=scores_BV)
    step = rest_BR.shape[1] // contextual
    targets_C = torch.arange(contextual, device=rest_BR.device) * step
    weights_BCR = _groups(rows_of(token_keys(output), rest_BR), targets_C, merge)
    kept_BK = torch.cat([dominant_BK, rest_BR[:, targets_C]], dim=1)
    kept_BK, place_BK = kept_BK.sort(dim=1)

    def zipped(plane_BVH: torch.Tensor) -> torch.Tensor:
        merged_BCH = torch.matmul(weights_BCR, rows_of(plane_BVH, rest_BR).float()).to(plane_BVH.dtype)
        return rows_of(torch.cat([rows_of(plane_BVH, dominant_BK), merged_BCH], dim=1), place_BK)

    return VisionKept(planes=tuple(map(zipped, output.planes)), kept_patches=kept_BK, scores=scores_BV)


def _groups(keys_BRD: torch.Tensor, targets_C: torch.Tensor, merge: str) -> torch.Tensor:
    """fp32 [B,C,R]: what each of the others adds to each contextual token."""
    unit_BRD = torch.nn.functional.normalize(keys_BRD, dim=2)
    nearest_BR = torch.matmul(unit_BRD, unit_BRD[:, targets_C].transpose(1, 2)).argmax(dim=2)
    # A target is its own, whatever rounding says.
    nearest_BR[:, targets_C] = torch.arange(len(targets_C), device=nearest_BR.device)
    member_BCR = torch.nn.functional.one_hot(nearest_BR, len(targets_C)).float().transpose(1, 2)
    if merge == "mean":
        return member_BCR / member_BCR.sum(dim=2, keepdim=True)
    own_CR = torch.nn.functional.one_hot(targets_C, keys_BRD.shape[1]).float()
    others_BCR = member_BCR - own_CR
    return own_CR + others_BCR / others_BCR.sum(dim=2, keepdim=True).clamp_min(1)
