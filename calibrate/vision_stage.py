"""Stage I: run the vision tower, score its patches, keep some, and cluster the kept ones.

Shape letters: B batch, N patches, K kept patches, H hidden, Nh vision heads, D head dim, Dv = Nh·D.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vitcop.calibrate.prompt import PromptBatch
from vitcop.calibrate.schedule import Clusters, VisionStage
from vitcop.plugins import ops

if TYPE_CHECKING:
    from vitcop.calibrate.families import Family


@dataclass(frozen=True, kw_only=True)
class VisionOutput:
    """What the vision tower gives, before anything is dropped.

    Args:
        features: [B,N,H], as the projector leaves them.
        q_cls: [B,Nh,D], query of the class token in the layer whose output the projector reads.
        keys: [B,Nh,1+N,D], keys of that layer, class token first.
        scale: of the attention logits of that layer.
    """

    features: torch.Tensor
    q_cls: torch.Tensor
    keys: torch.Tensor
    scale: float

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.features, self.q_cls, self.keys))


@dataclass(frozen=True, kw_only=True)
class VisionKept:
    """What enters the language model.

    Args:
        features: [B,K,H].
        kept_patches: int64 [B,K], ascending.
        scores: fp32 [B,N] by which they were kept; None where all were.
        saliency: fp32 [B,K], the class token's attention, carried along for later drops; None where not computed.
        labels: int64 [B,K] cluster of each; None without clusters.
    """

    features: torch.Tensor
    kept_patches: torch.Tensor
    scores: torch.Tensor | None = None
    saliency: torch.Tensor | None = None
    labels: torch.Tensor | None = None


@torch.inference_mode()
def run_vision(model: Any, family: "Family", vision_inputs: dict[str, Any]) -> VisionOutput:
    """The model's own vision tower and projector, with query and keys taken from the projections of one layer by
    hooks."""
    attention = family.vision_attention(model)
    grabbed: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda _module, _inputs, output, name=name: grabbed.__setitem__(name, output)
        )
        for name in ("q_proj", "k_proj")
    ]
    try:
        pixels = torch.as_tensor(vision_inputs["pixel_values"])
        weight = attention.k_proj.weight
        features_BNH = family.visual_features(model, pixels.to(device=weight.device, dtype=weight.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    q_BTNhD, k_BTNhD = (grabbed[name].unflatten(-1, (attention.num_heads, -1)) for name in ("q_proj", "k_proj"))
    return VisionOutput(
        features=features_BNH, q_cls=q_BTNhD[:, 0], keys=k_BTNhD.transpose(1, 2), scale=float(q_BTNhD.shape[-1]) ** -0.5
    )


def keep_patches(output: VisionOutput, stage: VisionStage | None, grid: tuple[int, int]) -> VisionKept:
    """Apply stage I of a schedule; None keeps every patch.

    Args:
        grid: (rows, columns) of the patches of one image.
    """
    batch, num_patches = output.features.shape[:2]
    patches_BN = torch.arange(num_patches, device=output.features.device).expand(batch, -1).contiguous()
    if stage is None:
        return VisionKept(features=output.features, kept_patches=patches_BN)
    saliency_BN = None
    if stage.score == "class_attention":
        scores_BN = saliency_BN = ops.vision_saliency(output.q_cls, output.keys, scale=output.scale)
    elif stage.score == "uniform":
        scores_BN = ops.uniform_scores(patches_BN, keep=stage.keep)
    else:
        scores_BN = ops.random_scores(patches_BN, seed=stage.seed)
    kept_BK = ops.score_select(scores_BN, patches_BN, num_patches, keep=stage.keep, order="largest")[2]
    return VisionKept(
        features=output.features.gather(1, kept_BK.unsqueeze(-1).expand(-1, -1, output.features.shape[-1])),
        kept_patches=kept_BK,
        scores=scores_BN,
        saliency=None if saliency_BN is None else saliency_BN.gather(1, kept_BK),
        labels=None if stage.clusters is None else _cluster(output, kept_BK, stage.clusters, grid),
    )


def _cluster(output: VisionOutput, kept_BK: torch.Tensor, clusters: Clusters, grid: tuple[int, int]) -> torch.Tensor:
    """Cluster labels int64 [B,K] of the kept patches, by their keys (all heads side by side) and grid places."""
    keys_BNDv = output.keys[:, :, 1:].transpose(1, 2).flatten(2)
    rows, columns = grid
    places_BK2 = torch.stack(
        (
            torch.div(kept_BK % (rows * columns), columns, rounding_mode="floor").float() / rows,
            (kept_BK % columns).float() / columns,
        ),
        dim=-1,
    )
    return ops.density_peak_clusters(
        keys_BNDv.gather(1, kept_BK.unsqueeze(-1).expand(-1, -1, keys_BNDv.shape[-1])),
        places_BK2,
        centers=clusters.centers,
        # Unused where the quantile decides, but the op wants a number.
        cutoff_distance=8.0 if clusters.cutoff_distance is None else clusters.cutoff_distance,
        cutoff_quantile=clusters.cutoff_quantile,
        spatial_radius=clusters.spatial_radius,
    )


class VisionCache:
    """Remembers the vision output of batches, so that many schedules tried on one sample set run the tower once for
    each batch.

    A batch is known by its pixel array (the object, which is kept alive here). Once `limit_bytes` are held, further
    batches are computed anew each time.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.num_bytes = 0
        self._held: dict[int, tuple[Any, VisionOutput]] = {}

    def get(self, batch: PromptBatch, compute: Callable[[], VisionOutput]) -> VisionOutput:
        """The output for this batch, computed by `compute` the first time."""
        pixels = batch.vision_inputs["pixel_values"]
        held = self._held.get(id(pixels))
        if held is not None and held[0] is pixels:
            return held[1]
        output = compute()
        if self.num_bytes + output.num_bytes <= self.limit_bytes:
            self._held[id(pixels)] = (pixels, output)
            self.num_bytes += output.num_bytes
        return output
