"""Observing: the unpruned model once over prompts and answers, every score against what the answer depends on.

Shape letters: B batch, V visual tokens, L decoder layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.data.image_clusters import pictures_of
from vitcop.calibrate.data.samples import Sample
from vitcop.calibrate.evaluate.evaluation import Part
from vitcop.calibrate.evaluate.targets import Target
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.observe.dependence import answer_attention, gradient_times_input, remaining
from vitcop.calibrate.observe.key_norms import norm_rows
from vitcop.calibrate.observe.observation import ATTENTION, GRADIENT, Observation
from vitcop.calibrate.observe.pieces import DIGITS, Observed
from vitcop.calibrate.observe.scores import first_tokens, layer_scores, named_before, steady_scores
from vitcop.calibrate.observe.teacher_forcing import Forced, LayerPass, walk
from vitcop.calibrate.run.vision_stage import VisionCache, run_vision
from vitcop.calibrate.schedule.choices import Rule
from vitcop.calibrate.schedule.score_names import score_name
from vitcop.calibrate.stats.ranks import average_ranks, first_places, held_share, rank_agreement, spearman
from vitcop.plugins import ops
from vitcop.plugins.errors import MissingError

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


@dataclass(frozen=True)
class _Draw:
    """One score on the host: values and ranks [B,V], and the ninth of the tokens of largest and smallest score [B,K].
    Sorted once, since most scores are held against every layer."""

    values: np.ndarray
    ranks: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray

    @classmethod
    def of(cls, scores_BV: torch.Tensor) -> "_Draw":
        values = scores_BV.cpu().numpy()
        count = first_tokens(values.shape[1])
        return cls(values, average_ranks(values), first_places(values, count), first_places(-values, count))

    def rows(self, rows: list[int]) -> "_Draw":
        return _Draw(self.values[rows], self.ranks[rows], self.largest[rows], self.smallest[rows])

    def against(self, dependence_BV: np.ndarray, ranks_BV: np.ndarray) -> np.ndarray:
        """fp64 [B,3]: rank agreement, and the shares of the dependence on both ninths."""
        shares = (held_share(dependence_BV, places) for places in (self.largest, self.smallest))
        return np.stack([rank_agreement(self.ranks, ranks_BV), *shares], axis=1)


_Scores = dict[str, list[_Draw]]
"""By name; more than one draw of the control alone."""


def _on_host(scores: dict[str, list[torch.Tensor]]) -> _Scores:
    return {name: [_Draw.of(draw) for draw in draws] for name, draws in scores.items()}


def observe(
    model: Any, family: "Family", vision: VisionCache, parts: Sequence[Part], *, check_share: float = 0.25
) -> Observation:
    """Observe a sample set, part by part.

    Args:
        vision: as the evaluator's, so that the tower does not run again.
        parts: prepared batches and the original's answers (`Evaluator.part`).
        check_share: share of the samples, in [0, 1], for which gradients check the attention; one at a time, since each
            takes the memory of a whole backward pass.

    Raises MissingError where the device has too little memory for the check.
    """
    return Observation.of([observe_part(model, family, vision, part, check_share=check_share) for part in parts])


def observe_part(
    model: Any, family: "Family", vision: VisionCache, part: Part, *, check_share: float = 0.25
) -> Observed:
    """A unit of work: one part. Prompts of text alone, or of a single visual token, are left out."""
    return Observed.joined(
        [
            _observe_batch(model, family, vision, samples, batch, part.targets, check_share)
            for samples, batch in part.prepared
            if batch.num_visual > 1
        ]
    )


def _observe_batch(
    model: Any,
    family: "Family",
    vision: VisionCache,
    samples: list[Sample],
    batch: PromptBatch,
    targets: dict[str, Target],
    check_share: float,
) -> Observed:
    output = vision.get(batch, lambda: run_vision(model, family, batch))
    answers = [targets[sample.id].tokens for sample in samples]
    forced = Forced.of(batch, answers, model.device)
    attention: list[torch.Tensor] = []
    inside: list[_Scores] = []
    norms: dict[str, list[list[float]]] = {}

    def look(seen: LayerPass) -> None:
        window = family.window if seen.layer in family.sliding_layers else None
        attention.append(answer_attention(seen, forced, window=window))
        inside.append(_on_host(layer_scores(seen, forced)))
        norms.update(_norms(seen.layer, inside[-1]))

    with torch.inference_mode():
        walk(model, family, forced, output.planes, look)
        steady, blind = map(_on_host, steady_scores(output, family.vision_scores, list(map(_seed, samples))))
        attention_LBV = remaining(torch.stack(attention)).cpu().numpy()
    scores = [named_before(i, steady) | blind | (inside[i - 1] if i else {}) for i in range(len(inside))]
    values = _compared(ATTENTION, attention_LBV, scores) | norms
    gradients = {
        row: _gradient(model, family, forced.row(row), [plane[row : row + 1] for plane in output.planes], sample)
        for row, sample in enumerate(samples)
        if _is_checked(sample, check_share)
    }
    # In half precision a gradient may overflow: that sample is not checked then.
    gradients = {row: gradient_LV for row, gradient_LV in gradients.items() if np.isfinite(gradient_LV).all()}
    rows = list(gradients)
    if rows:
        gradient_LBV = np.stack(list(gradients.values()), axis=1)
        chosen = [{name: [draw.rows(rows) for draw in draws] for name, draws in layer.items()} for layer in scores]
        values |= _compared(GRADIENT, gradient_LBV, chosen)
        for i, (cheap, check) in enumerate(zip(attention_LBV, gradient_LBV, strict=True)):
            values[f"check/{i}"] = _rounded(spearman(cheap[rows], check)[:, None])
    return Observed(
        ids=tuple(sample.id for sample in samples),
        pictures=tuple(map(pictures_of, samples)),
        checked=tuple(row in gradients for row in range(len(samples))),
        values=values,
    )


def _gradient(model: Any, family: "Family", forced: Forced, planes: list[torch.Tensor], sample: Sample) -> np.ndarray:
    """[L,V], of one sample."""
    try:
        return gradient_times_input(model, family, forced, planes)[:, 0].cpu().numpy()
    except torch.OutOfMemoryError:
        raise MissingError(
            f"sample {sample.id}: gradients of its prompt do not fit into the device's memory; set check_share to 0 to "
            "calibrate without this check"
        ) from None


def _compared(kind: str, dependence_LBV: np.ndarray, scores: list[_Scores]) -> dict[str, list[list[float]]]:
    """Every score of every drop point against what the answer depends on from there on."""
    values = {}
    for i, (dependence_BV, layer) in enumerate(zip(dependence_LBV, scores, strict=True)):
        ranks_BV = average_ranks(dependence_BV)
        for name, draws in layer.items():
            columns_RB3 = [draw.against(dependence_BV, ranks_BV) for draw in draws]
            values[f"{kind}/{i}/{name}"] = _rounded(np.mean(columns_RB3, axis=0))
    return values


def _norms(layer: int, scores: _Scores) -> dict[str, list[list[float]]]:
    norms = {reduction: scores[score_name(Rule(head_reduction=reduction))][0] for reduction in ops.HEAD_REDUCTIONS}
    agreement_B = rank_agreement(norms["mean_key"].ranks, scores["text_query"][0].ranks)
    values = {f"norms/{layer}/{reduction}": _rounded(norm_rows(draw.values)) for reduction, draw in norms.items()}
    return values | {f"norms/{layer}/text_query": _rounded(agreement_B[:, None])}


def _rounded(rows: Any) -> list[list[float]]:
    return [[round(float(value), DIGITS) for value in row] for row in rows]


def _seed(sample: Sample) -> int:
    """Of its random orders."""
    return int(sample.content_digest[8:15], 16)


def _is_checked(sample: Sample, share: float) -> bool:
    """By a hash of the sample, so that the choice does not depend on how the set is cut into parts."""
    return int(sample.content_digest[:8], 16) < share * 2**32
