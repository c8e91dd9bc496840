"""Prompts with their answers fed in behind them, walked through the decoder layers of the unpruned model.

Shape letters: B batch, S prompt tokens, T answer tokens, X = S + T − 1 tokens of both (the last answer token is told,
never fed), V visual tokens, H hidden, Nh query heads, Nkv key-value heads, D head dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.models.recording import recording
from vitcop.calibrate.run.attention_masks import causal_mask
from vitcop.calibrate.run.device_inputs import PromptTensors, places_of
from vitcop.calibrate.run.original import next_positions
from vitcop.calibrate.run.stream import Stream

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


@dataclass(frozen=True, kw_only=True)
class Forced:
    """Prompts and answers on the device.

    Args:
        prompt: of X tokens a row; answers shorter than T are padded at the end, which no real token sees.
        length: S.
        answers: int64 [B,T].
        told: bool [B,T], True at real answer tokens.
    """

    prompt: PromptTensors
    length: int
    answers: torch.Tensor
    told: torch.Tensor

    @classmethod
    @torch.inference_mode(False)
    def of(cls, batch: PromptBatch, answers: Sequence[np.ndarray], device: torch.device) -> "Forced":
        """`answers`: int64 of each row, at least one token. Never inference tensors, so that gradients can be taken."""
        longest = max(len(tokens) for tokens in answers)
        answers_BT = np.zeros((len(answers), longest), dtype=np.int64)
        told_BT = np.zeros((len(answers), longest), dtype=bool)
        for row, tokens in enumerate(answers):
            answers_BT[row, : len(tokens)], told_BT[row, : len(tokens)] = tokens, True
        ids, told = torch.as_tensor(answers_BT, device=device), torch.as_tensor(told_BT, device=device)
        prompt = PromptTensors.of(batch, device)
        extended = replace(
            prompt,
            input_ids=torch.cat([prompt.input_ids, ids[:, :-1]], dim=1),
            mask=torch.cat([prompt.mask, told[:, :-1]], dim=1),
            positions=torch.cat([prompt.positions, next_positions(prompt.next_position, longest - 1)], dim=1),
        )
        return cls(prompt=extended, length=batch.input_ids.shape[1], answers=ids, told=told)

    def row(self, row: int) -> "Forced":
        """One prompt, still padded."""
        one = slice(row, row + 1)
        prompt = PromptTensors(**{item.name: getattr(self.prompt, item.name)[one] for item in fields(self.prompt)})
        return replace(self, prompt=prompt, answers=self.answers[one], told=self.told[one])


@dataclass(frozen=True, kw_only=True)
class LayerPass:
    """One decoder layer of the walk.

    Args:
        layer: its index.
        hidden: [B,X,H] that enter it.
        queries, keys: [B,Nh,X,D] and [B,Nkv,X,D], rotary embedding applied.
        scale: of the attention logits.
    """

    layer: int
    hidden: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    scale: float


def walk(
    model: Any,
    family: "Family",
    forced: Forced,
    planes: Sequence[torch.Tensor],
    on_layer: Callable[[LayerPass], None],
) -> torch.Tensor:
    """Logits [B,T,vocab] before each answer token.

    Where gradients are enabled, they flow back to the hidden states of every `LayerPass`; `planes` ([B,V,H] each) must
    then be no inference tensors.
    """
    decoder = family.language_model(model)
    prompt = forced.prompt
    embeds_BXH = decoder.embed_tokens(prompt.input_ids)
    features_BVH = planes[0].to(embeds_BXH)
    index_BVH = prompt.visual_index.unsqueeze(-1).expand_as(features_BVH)
    hidden = embeds_BXH.scatter(1, index_BVH, features_BVH)
    if torch.is_grad_enabled():
        hidden = hidden.detach().requires_grad_()
    stream = Stream(
        hidden=hidden,
        positions=prompt.positions,
        mask=prompt.mask,
        visual_index=prompt.visual_index,
        saliency=None,
        labels=None,
        planes=tuple(planes[1:]),
    )
    settings = (prompt.mask, hidden.shape[1], decoder.config._attn_implementation, hidden.dtype)
    masks = {False: causal_mask(*settings)}
    if family.sliding_layers:
        masks[True] = causal_mask(*settings, window=family.window, places_BK=places_of(prompt.positions))
    rotary = decoder.rotary_emb(hidden, position_ids=family.rotary_ids(prompt.positions))
    for i, layer in enumerate(decoder.layers):
        entered = stream.hidden
        with recording(layer.self_attn) as seen:
            left = layer(entered, attention_mask=masks[i in family.sliding_layers], position_embeddings=rotary)
        queries, keys = seen.queries[0], seen.keys[0]
        scale = queries.shape[-1] ** -0.5 if seen.scale is None else float(seen.scale)
        on_layer(LayerPass(layer=i, hidden=entered, queries=queries, keys=keys, scale=scale))
        stream = replace(stream, hidden=left).with_next_plane()
    answering = decoder.norm(stream.hidden[:, forced.length - 1 :])
    return family.lm_head(model)(answering)
