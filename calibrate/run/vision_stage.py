"""Stage I: run the vision tower, score the visual tokens, keep some, and cluster the kept ones.

Scores are of the encoder layer that feeds the projector, patch by patch; a token that stands for several patches has
their mean.

Shape letters: B batch, V visual tokens, M patches behind a token, P patches, K kept tokens, H hidden, Nh vision heads,
D head dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.models.families.layout import GRID, GROUP, PATCHES
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.models.recording import recording
from vitcop.calibrate.run.clustering import Clustering
from vitcop.calibrate.run.device_inputs import VisionTensors, rows_of
from vitcop.calibrate.schedule.schedule import Clusters, VisionStage
from vitcop.plugins import ops

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


@dataclass(frozen=True, kw_only=True)
class VisionOutput:
    """What the vision tower gives, before anything is dropped.

    Args:
        planes: [B,V,H] each: the features that enter the language model, then those that its first layers add
            (DeepStack).
        queries, keys: [P,Nh,D] of each patch in the layer that the scores read.
        class_scores: fp32 [P], attention of the class token to each patch of its tile; None without a class token.
        scale: of the attention logits of that layer.
        patches: int64 [B,V,M], the patches behind each token.
        grid: fp32 [B,V,2], place of each token in its tile.
        group: int64 [B,V], tile or frame of each token.
    """

    planes: tuple[torch.Tensor, ...]
    queries: torch.Tensor
    keys: torch.Tensor
    class_scores: torch.Tensor | None
    scale: float
    patches: torch.Tensor
    grid: torch.Tensor
    group: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.planes, self.queries, self.keys))


@dataclass(frozen=True, kw_only=True)
class VisionKept:
    """What enters the language model.

    Args:
        planes: [B,K,H] each.
        kept_patches: int64 [B,K], ascending indices into the V visual tokens.
        scores: fp32 [B,V] by which they were kept; None where all were.
        saliency: fp32 [B,K], the same of the kept, carried along for later drops; None for scores that tell nothing
            (uniform, random).
        labels: int64 [B,K] cluster of each; None without clusters.
        relabel: `Clustering.moved` of these clusters.
    """

    planes: tuple[torch.Tensor, ...]
    kept_patches: torch.Tensor
    scores: torch.Tensor | None = None
    saliency: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    relabel: Callable[[int, float], np.ndarray] | None = None


@torch.inference_mode()
def run_vision(model: Any, family: "Family", batch: PromptBatch) -> VisionOutput:
    """`see` for a batch that is still on the host."""
    return see(model, family, VisionTensors.of(batch, family.visual_tokens, model.device, model.dtype))


def see(model: Any, family: "Family", inputs: VisionTensors) -> VisionOutput:
    """The model's own vision tower and projector, with queries and keys recorded in one layer.

    Reads no value back, if the model's own code does not: towers for images of any size (Qwen-VL, LLaVA-NeXT,
    LLaVA-OneVision) read the sizes.
    """
    with recording(family.vision_attention(model)) as seen:
        kinds = family.visual_features(model, inputs.model_inputs)
    scale = seen.queries[0].shape[-1] ** -0.5 if seen.scale is None else float(seen.scale)
    class_scores = None
    if family.class_token:
        calls = zip(seen.queries, seen.keys, strict=True)
        class_scores = torch.cat([ops.vision_saliency(q[:, :, 0], k, scale=scale).flatten() for q, k in calls])
    return VisionOutput(
        planes=_spread(kinds, inputs, 1 + family.num_planes),
        queries=family.patch_vectors(seen.queries, inputs.tables),
        keys=family.patch_vectors(seen.keys, inputs.tables),
        class_scores=class_scores,
        scale=scale,
        patches=inputs.tables[PATCHES],
        grid=inputs.tables[GRID],
        group=inputs.tables[GROUP],
    )


def keep_patches(output: VisionOutput, stage: VisionStage | None) -> VisionKept:
    """Apply stage I of a schedule; None keeps every token."""
    batch, num_visual = output.planes[0].shape[:2]
    tokens_BV = torch.arange(num_visual, device=output.planes[0].device).expand(batch, -1).contiguous()
    if stage is None:
        return VisionKept(planes=output.planes, kept_patches=tokens_BV)
    told = stage.score not in ("uniform", "random")
    if told:
        scores_BV = vision_scores(output, stage.score)
    elif stage.score == "uniform":
        scores_BV = ops.uniform_scores(tokens_BV, keep=stage.keep)
    else:
        scores_BV = ops.random_scores(tokens_BV, seed=stage.seed)
    kept_BK = ops.score_select(scores_BV, tokens_BV, num_visual, keep=stage.keep, order=stage.order)[2]
    clustering = None if stage.clusters is None else _cluster(output, kept_BK, stage.clusters)
    return VisionKept(
        planes=tuple(rows_of(plane, kept_BK) for plane in output.planes),
        kept_patches=kept_BK,
        scores=scores_BV,
        saliency=scores_BV.gather(1, kept_BK) if told else None,
        labels=None if clustering is None else clustering.labels,
        relabel=None if clustering is None else clustering.moved,
    )


def vision_scores(output: VisionOutput, score: str) -> torch.Tensor:
    """fp32 [B,V]: one of the scores of a vision stage, for every visual token.

    class_attention: attention of the class token of the token's tile. The others need no class token and look at all
    visual patches of the prompt at once: mean_query, attention of the mean query to each patch; key_norm, the mean of
    the heads' key norms; key_diversity, one minus the mean cosine of the token's key to the keys of all tokens.
    """
    if score == "class_attention":
        assert output.class_scores is not None, "the score of encoders with a class token"
        return output.class_scores[output.patches].mean(dim=2)
    if score == "key_diversity":
        unit_BVD = torch.nn.functional.normalize(token_keys(output), dim=2)
        return 1 - (unit_BVD * unit_BVD.mean(dim=1, keepdim=True)).sum(dim=2)
    batch, num_visual, num_patches = output.patches.shape
    flat_BP = output.patches.flatten(1)
    keys_BNhPD = output.keys[flat_BP].float().transpose(1, 2)
    every_BP = torch.arange(flat_BP.shape[1], device=flat_BP.device).expand(batch, -1).contiguous()
    if score == "key_norm":
        scores_BP = ops.knorm_scores(keys_BNhPD, every_BP, head_reduction="mean_norm")
    else:
        assert score == "mean_query", score
        query_BNhD = output.queries[flat_BP].float().mean(dim=1)
        scores_BP = ops.text_query_scores(
            query_BNhD, keys_BNhPD, every_BP, attention_mask=torch.ones_like(every_BP), scale=output.scale
        )
    return scores_BP.view(batch, num_visual, num_patches).mean(dim=2)


def token_keys(output: VisionOutput) -> torch.Tensor:
    """fp32 [B,V,Nh·D]: key of each token, all heads side by side."""
    return output.keys[output.patches].float().mean(dim=2).flatten(2)


def _cluster(output: VisionOutput, kept_BK: torch.Tensor, clusters: Clusters) -> Clustering:
    """Clusters of the kept tokens, by their keys and their places in their tiles."""
    return Clustering.of(
        rows_of(token_keys(output), kept_BK), rows_of(output.grid, kept_BK), rows_of(output.group, kept_BK), clusters
    )


def _spread(kinds: list[list[torch.Tensor]], inputs: VisionTensors, num_planes: int) -> tuple[torch.Tensor, ...]:
    """Give each placeholder its features, in the order in which they stand."""
    planes = []
    for plane in range(num_planes):
        first = kinds[0][plane]
        filled = first.new_zeros((*inputs.visual_ids.shape, first.shape[-1]))
        for (token, count), features in zip(inputs.counts, kinds, strict=True):
            # masked_scatter would leave out surplus features without a word.
            assert len(features[plane]) == count, f"{len(features[plane])} features for {count} placeholders {token}"
            filled = filled.masked_scatter((inputs.visual_ids == token).unsqueeze(-1), features[plane].to(first))
        planes.append(filled)
    return tuple(planes)


class VisionCache:
    """Remembers the vision output of batches, so that many schedules tried on one sample set run the tower once for
    each batch.

    A batch is known by its model inputs (the object, which is kept alive here). Once `limit_bytes` are held, further
    batches are computed anew each time.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.num_bytes = 0
        self._held: dict[int, tuple[Any, VisionOutput]] = {}

    def get(self, batch: PromptBatch, compute: Callable[[], VisionOutput]) -> VisionOutput:
        """The output for this batch, computed by `compute` the first time."""
        inputs = batch.model_inputs
        held = self._held.get(id(inputs))
        if held is not None and held[0] is inputs:
            return held[1]
        output = compute()
        if self.num_bytes + output.num_bytes <= self.limit_bytes:
            self._held[id(inputs)] = (inputs, output)
            self.num_bytes += output.num_bytes
        return output
