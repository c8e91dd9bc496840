"""Auxiliary heads that teach the vision tower; none of them is shipped.

Patch heads read the states that the projector will read. The class token has its own loss at that layer and at the
last one: the patches' losses do not reach it, and without a loss its attention would mean nothing.
"""

import torch
from batches import IGNORE, NUM_PRESENT, PatchLabels
from shapes import COLORS, SHAPES, SIZES
from torch import nn
from torch.nn import functional as F

_GROUND_WEIGHT = 0.2  # most patches are ground
_CENTRE_WEIGHT = 12.0  # about three patches of 144 are centres
_PRESENT_WEIGHT = 3.0  # a mean over twenty mostly easy labels is small beside the others


class PatchHeads(nn.Module):
    """Linear heads on normalised states."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.shape = nn.Linear(width, len(SHAPES) + 2)
        self.color = nn.Linear(width, len(COLORS))
        self.size = nn.Linear(width, len(SIZES))
        self.digit = nn.Linear(width, 10)
        self.centre = nn.Linear(width, 2)
        self.class_norm = nn.LayerNorm(width)
        self.present = nn.Linear(width, NUM_PRESENT)
        self.present_last = nn.Linear(width, NUM_PRESENT)

    def forward(self, features: torch.Tensor, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """features [B,1+V,H], pooled [B,H] to logits [B,V,classes] and, for the class token, [B,labels]."""
        patches = self.norm(features[:, 1:])
        out = {name: getattr(self, name)(patches) for name in ("shape", "color", "size", "digit", "centre")}
        out["present"] = self.present(self.class_norm(features[:, 0]))
        out["present_last"] = self.present_last(pooled)
        return out


def patch_loss(logits: dict[str, torch.Tensor], labels: PatchLabels) -> torch.Tensor:
    """Sum of the heads' losses."""
    shape_weight = torch.ones(len(SHAPES) + 2, device=labels.shape.device)
    shape_weight[0] = _GROUND_WEIGHT
    centre_weight = torch.tensor([1.0, _CENTRE_WEIGHT], device=labels.shape.device)

    def cross_entropy(name: str, weight=None) -> torch.Tensor:
        target = getattr(labels, name).flatten()
        total = F.cross_entropy(logits[name].flatten(0, 1), target, weight=weight, ignore_index=IGNORE, reduction="sum")
        kept = target[target != IGNORE]
        # A batch without any box has no digit patch; the sum is then zero as well.
        return total / (kept.new_tensor(max(len(kept), 1)) if weight is None else weight[kept].sum())

    loss = cross_entropy("shape", shape_weight) + cross_entropy("centre", centre_weight)
    loss = loss + cross_entropy("color") + cross_entropy("size") + cross_entropy("digit")
    for name in ("present", "present_last"):
        loss = loss + _PRESENT_WEIGHT * F.binary_cross_entropy_with_logits(logits[name], labels.present)
    return loss


def patch_hits(logits: dict[str, torch.Tensor], labels: PatchLabels) -> dict[str, torch.Tensor]:
    """[right, asked] for each head, over object patches (centres: over patches that are one; class: over labels)."""
    hits = {}
    for name in ("shape", "color", "size", "digit", "centre"):
        target = getattr(labels, name)
        asked = target > 0 if name in ("shape", "centre") else target != IGNORE
        right = (logits[name].argmax(-1) == target) & asked
        hits[name] = torch.stack([right.sum(), asked.sum()])
    right = (logits["present"] > 0) == (labels.present > 0)
    hits["class"] = torch.stack([right.sum(), torch.tensor(right.numel(), device=right.device)])
    return hits
