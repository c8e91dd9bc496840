"""Token-dropping operations on tensors: the public functions.

Each calls its op `torch.ops.vitcop.*`: the same call works in eager mode and is one opaque node under torch.export. All
are deterministic: ties go to the lowest index, scores are compared in fp32, kept tokens stay in their order. Every row
of a batch has the same number of visual tokens. `visual_index` [B,V] int64 holds the positions of the visual tokens in
the present sequence, strictly ascending; padding is never among them. A `keep` is (num, den) of the V tokens present,
or a number of tokens; at least one token is kept where there is one.

Formulas: "ViTCoP: Visual and Textual semantic Collaborative Pruning" (arXiv 2601.17818), stages I (vision saliency), II
(visual information clustering, cluster merge) and III (key-norm selection).
"""

import torch

from vitcop.plugins.clusters import op as _clusters
from vitcop.plugins.errors import InputError
from vitcop.plugins.knorm import op as _knorm
from vitcop.plugins.merge import op as _merge
from vitcop.plugins.saliency import op as _saliency
from vitcop.plugins.scores import op as _scores
from vitcop.plugins.spec import Fraction

HEAD_REDUCTIONS = {"mean_key": 0, "mean_norm": 1}
"""mean_key: norm of the mean over KV heads; mean_norm: mean over KV heads of the norms."""

ORDERS = {"smallest": 0, "largest": 1}
"""Which end of the scores is kept."""

MERGES = {"sum": 0, "mean": 1}
"""sum: middle member + mean of the group (as published); mean: mean of the group."""

Keep = Fraction | int


def _choice(name: str, value: str, choices: dict[str, int]) -> int:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, found {value!r}")
    return choices[value]


def _fraction(keep: Keep, num_visual: int) -> Fraction:
    """(num, den); a number of tokens counts out of those present."""
    return (keep, max(num_visual, 1)) if isinstance(keep, int) else (keep[0], keep[1])


def vision_saliency(q_cls: torch.Tensor, keys: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
    """Attention that the class token pays to each patch, summed over heads (ViTCoP stage I).

    q_cls [B,Nh,D]: the class token's query; keys [B,Nh,1+N,D], class token first; scale: D ** -0.5 if None.
    Returns fp32 [B,N]: softmax over all 1+N keys, the class column left out.
    Raises InputError for shapes that do not fit and for NaN or infinity.
    """
    return _saliency.vision_saliency(q_cls, keys, keys.shape[-1] ** -0.5 if scale is None else scale)


def density_peak_clusters(
    features: torch.Tensor,
    positions: torch.Tensor,
    *,
    centers: Fraction,
    cutoff_distance: float = 8.0,
    cutoff_quantile: float | None = None,
    spatial_radius: float = 0.6,
    group_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Density-peak clusters (ViTCoP stage II, visual information clustering).

    features [B,K,D]: key projections of the kept tokens; positions [B,K,2]: grid coordinates in [0,1);
    group_ids int64 [B,K]: tile or frame, None for one group; centers (num, den): C = max(1, K·num // den).
    Density ρ_i = Σ_j exp(-(d_ij / d_c)²), j = i included; δ_i = distance to the nearest denser token (equal density:
    the lower index) of the same group within `spatial_radius`, ∞ where there is none; the C largest ρ·δ are centres
    (∞ first, by ρ, then index); any other token takes the label of its nearest denser token, or where it has none, of
    its nearest centre.
    d_c is `cutoff_distance`, or if `cutoff_quantile` q (0 < q <= 1, in steps of 1e-6) is given, the ⌈q·P⌉-th smallest
    (at least the first) of the P = K(K-1)/2 distances between different tokens of the row.
    Returns labels int64 [B,K] in 0..C-1; centres are numbered in ascending order of their token index.
    Raises InputError for shapes that do not fit, a cutoff that is not positive, and NaN or infinity.
    """
    if cutoff_quantile is not None and not 0 < cutoff_quantile <= 1:
        raise InputError(f"cutoff_quantile must be in (0, 1], found {cutoff_quantile}")
    if not spatial_radius >= 0:
        raise InputError(f"spatial_radius must be at least 0, found {spatial_radius}")
    if group_ids is None:
        group_ids = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
    return _clusters.density_peak_clusters(
        features, positions, group_ids, centers[0], centers[1], cutoff_distance, cutoff_quantile or 0.0, spatial_radius
    )


def knorm_scores(keys: torch.Tensor, visual_index: torch.Tensor, *, head_reduction: str = "mean_key") -> torch.Tensor:
    """Key norms of the visual tokens: the score of ViTCoP stages II and III.

    keys [B,Nkv,S,D]: post-RoPE keys of the layer before the drop point; head_reduction: see HEAD_REDUCTIONS.
    Returns fp32 [B,V], accumulated in fp32. Raises InputError for shapes that do not fit and norms that are not finite.
    """
    return _knorm.knorm_scores(keys, visual_index, _choice("head_reduction", head_reduction, HEAD_REDUCTIONS))


def text_query_scores(
    q_last: torch.Tensor,
    keys: torch.Tensor,
    visual_index: torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of the last prompt token's query to each visual token, summed over query heads.

    q_last [B,Nh,D]; keys [B,Nkv,S,D] (query head h reads key-value head h // (Nh/Nkv)); attention_mask int64 [B,S],
    0 for padding, None for no padding; scale: D ** -0.5 if None.
    Returns fp32 [B,V]: softmax over the unpadded sequence.
    Raises InputError for shapes that do not fit and scores that are not finite.
    """
    if attention_mask is None:
        attention_mask = torch.ones((keys.shape[0], keys.shape[2]), dtype=torch.int64, device=keys.device)
    scale = keys.shape[-1] ** -0.5 if scale is None else scale
    return _scores.text_query_scores(q_last, keys, visual_index, attention_mask, scale)


def uniform_scores(visual_index: torch.Tensor, *, keep: Keep) -> torch.Tensor:
    """The control "evenly spread": fp32 [B,V], 1.0 at exactly K tokens and 0.0 elsewhere. Select with order "largest".

    Token j is one of the K where (2(j+1)K + V) // 2V > (2jK + V) // 2V.
    """
    num, den = _fraction(keep, visual_index.shape[1])
    return _scores.uniform_scores(visual_index, num, den)


def random_scores(visual_positions: torch.Tensor, *, seed: int) -> torch.Tensor:
    """The control "random": a hash of the seed and of each token's position id in the full sequence.

    visual_positions int64 [B,V]. Returns fp32 [B,V], multiples of 2^-24 in [0, 1). A token keeps its score after drops,
    and in every runtime. Seed and position count modulo 2^32.
    """
    return _scores.random_scores(visual_positions, seed)


def knorm_select(
    keys: torch.Tensor,
    visual_index: torch.Tensor,
    *,
    keep: Keep,
    order: str = "smallest",
    head_reduction: str = "mean_key",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the visual tokens of smallest (or largest) key norm (ViTCoP stage III).

    keys [B,Nkv,S,D], visual_index [B,V]. Returns (kept_positions [B,S-V+K] ascending into the present sequence,
    visual_index [B,K] into the shorter one, kept_visual [B,K] which of the V), all int64.
    Raises InputError for shapes that do not fit and norms that are not finite.
    """
    num, den = _fraction(keep, visual_index.shape[1])
    reduction = _choice("head_reduction", head_reduction, HEAD_REDUCTIONS)
    return _knorm.knorm_select(keys, visual_index, num, den, _choice("order", order, ORDERS), reduction)


def score_select(
    scores: torch.Tensor, visual_index: torch.Tensor, sequence: int | torch.Tensor, *, keep: Keep, order: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the visual tokens of smallest (or largest) score.

    scores [B,V], visual_index [B,V]; sequence: S, or any tensor [B,S,...] that has it in its shape.
    Returns (kept_positions [B,S-V+K], visual_index [B,K], kept_visual [B,K]) as `knorm_select`.
    Raises InputError for shapes that do not fit and scores that are not finite.
    """
    if not isinstance(sequence, torch.Tensor):
        sequence = visual_index.new_empty((visual_index.shape[0], sequence))
    num, den = _fraction(keep, visual_index.shape[1])
    return _scores.score_select(scores, visual_index, sequence, num, den, _choice("order", order, ORDERS))


def cluster_merge_plan(
    scores: torch.Tensor,
    labels: torch.Tensor,
    visual_index: torch.Tensor,
    sequence: int | torch.Tensor,
    *,
    num_clusters: Keep,
    keep: Keep,
    merge: str = "sum",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which visual tokens are combined, and with which weights: the planning half of `cluster_merge`.

    Returns (kept_positions [B,S-V+R], visual_index [B,R], kept_visual [B,R], assignment fp32 [B,R,V]). `kept_visual`
    names the middle member of each group, where the merged token stands. Arguments and rules: see `cluster_merge`.
    """
    if not isinstance(sequence, torch.Tensor):
        sequence = visual_index.new_empty((visual_index.shape[0], sequence))
    clusters = _fraction(num_clusters, visual_index.shape[1])
    num, den = _fraction(keep, visual_index.shape[1])
    mean = _choice("merge", merge, MERGES)
    return _merge.cluster_merge_plan(scores, labels, visual_index, sequence, *clusters, num, den, mean)


def merge_hidden(
    hidden: torch.Tensor,
    visual_index_before: torch.Tensor,
    kept_positions: torch.Tensor,
    visual_index_after: torch.Tensor,
    assignment: torch.Tensor,
) -> torch.Tensor:
    """Apply a merge plan: hidden [B,S,H] -> [B,S-V+R,H], the dtype of `hidden`, products in fp32.

    visual_index_before [B,V], kept_positions [B,S-V+R], visual_index_after [B,R], assignment [B,R,V]. Plain torch ops
    only, so that it traces into a graph.
    """
    return _merge.merge_hidden(hidden, visual_index_before, kept_positions, visual_index_after, assignment)


def cluster_merge(
    hidden: torch.Tensor,
    visual_index: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_clusters: Keep,
    keep: Keep,
    merge: str = "sum",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Down to R visual tokens: some of each cluster stay, the rest of it becomes one token (ViTCoP stage II).

    hidden [B,S,H], visual_index [B,V], scores [B,V] (key norms), labels int64 [B,V] in 0..C-1, C = max(1, V·num // den)
    of `num_clusters`. A label that no token has (possible after a drop) is as if it were not there: below, C counts the
    clusters that have a token.
    C <= R: the R-C places are shared out in proportion to size-1, rounded half to even, capped at size-1; a shortfall
    is filled one each in ascending order of the clusters' norm sums, an excess taken back in descending order (equal
    sums: the lower label first); a cluster keeps that many of its tokens, those of lowest norm, as they are, and the
    others form its merged group (a cluster of one token keeps none: its token is a merged group of one).
    C > R: the R-1 clusters of least norm sum are a merged group each, all others one more.
    A merged group becomes one token at its middle member m (number ⌊n/2⌋, from 0, of its n ascending positions):
    h_m + mean(group) for "sum" (so a merged group of one becomes 2h), mean(group) for "mean". Under "sum" keeping all
    (R = V) is therefore no identity: each cluster's token of highest norm is doubled.
    Returns (hidden [B,S-V+R,H], kept_positions [B,S-V+R], visual_index [B,R], kept_visual [B,R], assignment fp32
    [B,R,V]).
    Raises InputError for shapes that do not fit, labels out of range and scores that are not finite.
    """
    kept_positions, new_visual_index, kept_visual, assignment = cluster_merge_plan(
        scores, labels, visual_index, hidden, num_clusters=num_clusters, keep=keep, merge=merge
    )
    merged = merge_hidden(hidden, visual_index, kept_positions, new_visual_index, assignment)
    return merged, kept_positions, new_visual_index, kept_visual, assignment
