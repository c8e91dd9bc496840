"""Statistics of the unpruned model that the calibration reports: key norms of visual tokens, layer by layer."""

import numpy as np
import torch

from vitcop.calibrate.scheduled import LayerView
from vitcop.plugins import ops

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class KNormObserver:
    """Key norms of the visual tokens in each decoder layer, and how they rank beside the last text query's attention.

    Holds every norm (4 bytes a visual token, layer and reduction). Pass `observe` as `on_layer` of a ScheduledRunner.
    """

    def __init__(self) -> None:
        self._norms: dict[tuple[int, str], list[np.ndarray]] = {}
        self._correlations: dict[int, list[np.ndarray]] = {}

    def observe(self, view: LayerView) -> None:
        """Take in one layer of one batch."""
        for reduction in ops.HEAD_REDUCTIONS:
            norms_BV = ops.knorm_scores(view.keys, view.visual_index, head_reduction=reduction)
            self._norms.setdefault((view.layer, reduction), []).append(norms_BV.cpu().numpy().ravel())
            if reduction == "mean_key":
                attention_BV = ops.text_query_scores(
                    view.last_query, view.keys, view.visual_index, attention_mask=view.mask.long(), scale=view.scale
                )
                self._correlations.setdefault(view.layer, []).append(
                    rank_correlation(norms_BV, attention_BV).cpu().numpy()
                )

    def layers(self) -> list[dict[str, object]]:
        """One entry a layer: for each reduction mean, std, min, max and quantiles; and `text_query_correlation`, the
        mean over samples of Spearman's rank correlation of norm and attention (positive: large norms are looked at)."""
        return [
            {
                "layer": layer,
                "text_query_correlation": float(np.concatenate(self._correlations[layer]).mean()),
                **{
                    reduction: _summary(np.concatenate(self._norms[layer, reduction]))
                    for reduction in ops.HEAD_REDUCTIONS
                },
            }
            for layer in sorted(self._correlations)
        ]


def rank_correlation(a_BV: torch.Tensor, b_BV: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation of each row, fp32 [B]; 0 for fewer than two entries."""
    if a_BV.shape[1] < 2:
        return torch.zeros(len(a_BV))
    ranks = [values.argsort(dim=1, stable=True).argsort(dim=1).float() for values in (a_BV, b_BV)]
    a, b = (rank - rank.mean(dim=1, keepdim=True) for rank in ranks)
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def _summary(values: np.ndarray) -> dict[str, object]:
    values = values.astype(np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "quantiles": {f"{quantile:g}": float(np.quantile(values, quantile)) for quantile in QUANTILES},
    }
