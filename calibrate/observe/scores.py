"""The candidate scores of a drop point, by the names of their rules, and what the controls are here.

Shape letters: B batch, V visual tokens, S prompt tokens, X tokens of prompt and answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitcop.calibrate.observe.teacher_forcing import Forced, LayerPass
from vitcop.calibrate.run.vision_stage import VisionOutput, vision_scores
from vitcop.calibrate.schedule.choices import Rule
from vitcop.calibrate.schedule.score_names import score_name, vision_rule
from vitcop.plugins import ops

DRAWS = 8
"""Random orders of each sample, so that the yardstick is known better than what is held against it."""


def first_tokens(num_visual: int) -> int:
    """A ninth of the visual tokens, at least one: what a drop to the smallest published budget keeps."""
    return max(1, num_visual // 9)


def steady_scores(
    output: VisionOutput, names: Sequence[str], seeds: Sequence[int]
) -> tuple[dict[str, list[torch.Tensor]], dict[str, list[torch.Tensor]]]:
    """(vision scores by their own name, controls): draws of fp32 [B,V], which no decoder layer changes.

    `uniform` is the grid of `first_tokens`. `random` is DRAWS draws, anew for each sample: one seed for all would be
    one fixed pattern of places, which agrees or disagrees with where pictures have their objects, and would not average
    out. Everything else is a single draw.

    Args:
        seeds: of each sample.
    """
    batch, num_visual = output.planes[0].shape[:2]
    tokens_BV = torch.arange(num_visual, device=output.planes[0].device).expand(batch, -1).contiguous()
    random = [
        torch.cat([ops.random_scores(row[None], seed=seed + i) for row, seed in zip(tokens_BV, seeds, strict=True)])
        for i in range(DRAWS)
    ]
    uniform = ops.uniform_scores(tokens_BV, keep=first_tokens(num_visual))
    return {name: [vision_scores(output, name)] for name in names}, {"uniform": [uniform], "random": random}


def layer_scores(seen: LayerPass, forced: Forced) -> dict[str, list[torch.Tensor]]:
    """Scores of the drop point behind a layer: one draw of fp32 [B,V] each, of the prompt alone, as in prefill."""
    keys_BNkvSD = seen.keys[:, :, : forced.length]
    index_BV, mask_BS = forced.prompt.visual_index, forced.prompt.mask[:, : forced.length]
    scores = {
        score_name(Rule(head_reduction=reduction)): [ops.knorm_scores(keys_BNkvSD, index_BV, head_reduction=reduction)]
        for reduction in ops.HEAD_REDUCTIONS
    }
    last_BNhD = seen.queries[:, :, forced.length - 1]
    question = ops.text_query_scores(last_BNhD, keys_BNkvSD, index_BV, attention_mask=mask_BS.long(), scale=seen.scale)
    return scores | {"text_query": [question]}


def named_before(layer: int, vision: Mapping[str, Any]) -> dict[str, Any]:
    """Vision scores by the names of the rules that read them before `layer`."""
    return {score_name(vision_rule(layer, name)): scores for name, scores in vision.items()}
