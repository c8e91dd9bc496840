"""The model under a schedule, in PyTorch: the Hugging Face decoder layers walked one by one, with the reference ops
between them.

The independent second implementation beside the rewritten graph; `verify` holds one against the other.

Shape letters: B batch, S sequence, V visual tokens now present, R visual tokens after a drop, T new tokens, P cached
tokens, H hidden.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.attention_masks import causal_mask
from vitcop.calibrate.device_inputs import PromptTensors, VisionTensors, places_of, rows_of
from vitcop.calibrate.original import OriginalRunner, cache_bytes, clock, next_positions
from vitcop.calibrate.prompt import PromptBatch
from vitcop.calibrate.recording import Recorded, recording
from vitcop.calibrate.runner import Prefill
from vitcop.calibrate.schedule import Drop, Schedule
from vitcop.calibrate.stream import Dropped, Stream, drop_tokens, positions_after
from vitcop.calibrate.vision_stage import VisionCache, VisionKept, keep_patches, run_vision, see
from vitcop.plugins import ops
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.families import Family

__all__ = ["OriginalRunner", "ScheduledRunner", "ScheduledState"]


@dataclass
class ScheduledState:
    """Decode state: the cache (each layer as long as its group); of each group the mask [B,P_g] and the places [B,P_g]
    of its tokens in the full prompt; the next position [B]."""

    cache: Any
    masks: list[torch.Tensor]
    places: list[torch.Tensor]
    next_position: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class DevicePrefill:
    """A prefill whose results are still on the device: logits fp32 [B,vocab] of the last position."""

    logits: torch.Tensor
    state: ScheduledState
    vision: Dropped | None
    drops: tuple[Dropped, ...]


@dataclass(frozen=True)
class LayerView:
    """What an observer sees of one decoder layer in prefill.

    Args:
        layer: its index.
        keys: [B,Nkv,S,D], rotary embedding applied.
        last_query: [B,Nh,D], query of the last prompt token, rotary embedding applied.
        visual_index: int64 [B,V].
        mask: bool [B,S], True at real tokens.
        scale: of the attention logits; None for D ** -0.5.
    """

    layer: int
    keys: torch.Tensor
    last_query: torch.Tensor
    visual_index: torch.Tensor
    mask: torch.Tensor
    scale: float | None


class ScheduledRunner:
    """Runs a transformers model under a schedule.

    Args:
        vision: shared between runners of one model so that the vision tower runs once for each batch; None runs it each
            time.
        on_layer: called in prefill after each decoder layer with what the layer made of its tokens; for observers.

    Raises InputError where the schedule is for another depth than the model's, or asks for a score that it lacks, or
    where sliding windows meet FlashAttention or reindexed positions.
    """

    def __init__(
        self,
        model: Any,
        family: "Family",
        schedule: Schedule,
        *,
        name: str = "scheduled",
        vision: VisionCache | None = None,
        on_layer: Callable[[LayerView], None] | None = None,
    ) -> None:
        depth = family.num_layers
        if schedule.num_layers != depth:
            raise InputError(f"the schedule is for {schedule.num_layers} decoder layers, the model has {depth}")
        family.check_scores(schedule)
        decoder = family.language_model(model)
        if family.window is not None and decoder.config._attn_implementation == "flash_attention_2":
            raise InputError(
                f"sliding windows ({family.window} tokens) cannot be used with --attn flash_attention_2: it counts a "
                "window in tokens present, not in places of the full prompt; use sdpa"
            )
        if family.window is not None and schedule.positions != "original":
            raise InputError(
                f"positions {schedule.positions!r} lose the places that sliding windows ({family.window} tokens) "
                "count; use positions 'original'"
            )
        self.model = model
        self.family = family
        self.schedule = schedule
        self.name = name
        self._vision = vision
        self._on_layer = on_layer
        self._decoder = decoder
        self._sliding = family.sliding_layers
        self._group_of = [g for g, layers in enumerate(schedule.groups) for _ in layers]

    @torch.inference_mode()
    def prefill(self, batch: PromptBatch) -> Prefill:
        device = self.model.device
        begun = clock(device)
        kept = self._keep(batch)
        seen = clock(device)
        found = self.read(PromptTensors.of(batch, device), kept)
        logits = found.logits.cpu().numpy()
        return Prefill(
            logits=logits,
            state=found.state,
            vision=None if found.vision is None else found.vision.trace(),
            drops=tuple(dropped.trace() for dropped in found.drops),
            kv_lengths=tuple(mask.shape[1] for mask in found.state.masks),
            kv_bytes=cache_bytes(found.state.cache),
            seconds={"vision": seen - begun, "prefill": clock(device) - seen},
        )

    @torch.inference_mode()
    def forward(self, prompt: PromptTensors, vision: VisionTensors | None) -> DevicePrefill:
        """The whole prefill, from tensors on the device to tensors on the device; `vision` None for text alone.

        Shapes depend on those of the arguments alone and no value is read back, so that a CUDA graph can hold it: with
        the kernels (the references of the ops check values), sdpa or eager attention (the mask of flash_attention_2
        depends on whether there is padding) and a tower that reads no sizes (`vision_stage.see`).
        """
        if vision is None:
            kept = self._nothing(len(prompt.input_ids))
        else:
            kept = keep_patches(see(self.model, self.family, vision), self.schedule.vision)
        return self.read(prompt, kept)

    @torch.inference_mode()
    def read(self, prompt: PromptTensors, kept: VisionKept) -> DevicePrefill:
        """The language model's part of `forward`."""
        from transformers import DynamicCache

        stream = self._enter(prompt, kept)
        cache, groups, dropped = DynamicCache(), [stream], []
        last: Recorded | None = None
        drops = {drop.layer: drop for drop in self.schedule.drops}
        rotary, attend = self._geometry(stream)
        for i, layer in enumerate(self._decoder.layers):
            if i in drops:
                scores_BV = self._scores(drops[i], stream, cache.layers[i - 1].keys, last)
                stream, what = drop_tokens(self.schedule, drops[i], stream, scores_BV)
                dropped.append(what)
                groups.append(stream)
                rotary, attend = self._geometry(stream)
            following = drops.get(i + 1)
            asks = self._on_layer is not None or (following is not None and following.score == "text_query")
            with recording(layer.self_attn) if asks else nullcontext() as last:
                hidden = layer(
                    stream.hidden,
                    attention_mask=attend[i in self._sliding],
                    position_embeddings=rotary,
                    past_key_values=cache,
                    use_cache=True,
                )
            stream = replace(stream, hidden=hidden).with_next_plane()
            if self._on_layer is not None:
                query_BNhD = last.queries[0][:, :, -1]
                self._on_layer(
                    LayerView(i, cache.layers[i].keys, query_BNhD, stream.visual_index, stream.mask, _scale(layer))
                )
        return DevicePrefill(
            logits=self.family.lm_head(self.model)(self._decoder.norm(stream.hidden[:, -1:]))[:, -1].float(),
            state=ScheduledState(
                cache=cache,
                masks=[group.mask for group in groups],
                places=[places_of(group.positions) for group in groups],
                next_position=self._next_position(prompt, stream),
            ),
            vision=None if self.schedule.vision is None else Dropped(kept_visual=kept.kept_patches, scores=kept.scores),
            drops=tuple(dropped),
        )

    def decode(self, token_ids: np.ndarray, state: ScheduledState) -> np.ndarray:
        return self.extend(token_ids[:, None], state)[:, -1]

    @torch.inference_mode()
    def extend(self, token_ids: np.ndarray, state: ScheduledState) -> np.ndarray:
        """Feed T tokens a row (int64 [B,T]) at once; logits fp32 [B,T,vocab]."""
        ids_BT = torch.as_tensor(token_ids, device=self.model.device)
        hidden = self._decoder.embed_tokens(ids_BT)
        positions = next_positions(state.next_position, ids_BT.shape[1])
        rotary = self._decoder.rotary_emb(hidden, position_ids=self.family.rotary_ids(positions))
        state.masks = [torch.cat([mask, mask.new_ones(ids_BT.shape)], dim=1) for mask in state.masks]
        state.places = [torch.cat([places, places_of(positions)], dim=1) for places in state.places]
        attends = [self._masks(*group, hidden) for group in zip(state.masks, state.places, strict=True)]
        for i, layer in enumerate(self._decoder.layers):
            hidden = layer(
                hidden,
                attention_mask=attends[self._group_of[i]][i in self._sliding],
                position_embeddings=rotary,
                past_key_values=state.cache,
                use_cache=True,
            )
        state.next_position = state.next_position + ids_BT.shape[1]
        return self.family.lm_head(self.model)(self._decoder.norm(hidden)).float().cpu().numpy()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _keep(self, batch: PromptBatch) -> VisionKept:
        def compute() -> Any:
            return run_vision(self.model, self.family, batch)

        if not batch.num_visual:
            return self._nothing(len(batch.input_ids))
        output = self._vision.get(batch, compute) if self._vision else compute()
        return keep_patches(output, self.schedule.vision)

    def _nothing(self, num_prompts: int) -> VisionKept:
        """What a prompt of text alone brings: no tokens, of the shapes that tokens have."""
        weight = self._decoder.embed_tokens.weight
        none_B0 = torch.zeros((num_prompts, 0), dtype=torch.int64, device=weight.device)
        return VisionKept(
            planes=(weight.new_zeros((*none_B0.shape, weight.shape[1])),) * (1 + self.family.num_planes),
            kept_patches=none_B0,
            scores=none_B0.float(),
            saliency=none_B0.float(),
            labels=none_B0,
        )

    def _enter(self, prompt: PromptTensors, kept: VisionKept) -> Stream:
        """Embed the prompt without the placeholders of dropped patches, and put the kept features at the others."""
        prompt = prompt.after_drop(kept.kept_patches)
        embeds_BSH = self._decoder.embed_tokens(prompt.input_ids)
        features_BVH = kept.planes[0].to(embeds_BSH)
        index_BVH = prompt.visual_index.unsqueeze(-1).expand_as(features_BVH)
        positions = prompt.positions
        return Stream(
            hidden=embeds_BSH.scatter(1, index_BVH, features_BVH),
            positions=positions_after(self.schedule, positions, prompt.mask) if self.schedule.vision else positions,
            mask=prompt.mask,
            visual_index=prompt.visual_index,
            saliency=kept.saliency,
            labels=kept.labels,
            planes=kept.planes[1:],
        )

    def _next_position(self, prompt: PromptTensors, stream: Stream) -> torch.Tensor:
        """Position of the first generated token, [B] or [B,4]."""
        if self.schedule.positions == "original":
            return prompt.next_position
        return stream.positions[:, -1] + 1

    def _geometry(self, stream: Stream) -> tuple[Any, dict[bool, torch.Tensor | None]]:
        """(rotary tables, attention masks) of a layer group."""
        rotary = self._decoder.rotary_emb(stream.hidden, position_ids=self.family.rotary_ids(stream.positions))
        return rotary, self._masks(stream.mask, places_of(stream.positions), stream.hidden)

    def _masks(
        self, real_BK: torch.Tensor, places_BK: torch.Tensor, hidden_BQH: torch.Tensor
    ) -> dict[bool, torch.Tensor | None]:
        """The mask of full layers (False) and, where there are any, of sliding ones (True)."""
        settings = (real_BK, hidden_BQH.shape[1], self._decoder.config._attn_implementation, hidden_BQH.dtype)
        masks = {False: causal_mask(*settings)}
        if self._sliding:
            masks[True] = causal_mask(*settings, window=self.family.window, places_BK=places_BK)
        return masks

    def _scores(self, drop: Drop, stream: Stream, keys_BNkvSD: torch.Tensor, last: Recorded | None) -> torch.Tensor:
        """fp32 [B,V]."""
        if drop.score == "k_norm":
            return ops.knorm_scores(keys_BNkvSD, stream.visual_index, head_reduction=drop.head_reduction)
        if drop.score == "text_query":
            scale = _scale(self._decoder.layers[drop.layer - 1])
            query_BNhD = last.queries[0][:, :, -1]
            return ops.text_query_scores(
                query_BNhD, keys_BNkvSD, stream.visual_index, attention_mask=stream.mask.long(), scale=scale
            )
        if drop.score == "vision_saliency":
            return stream.saliency
        if drop.score == "uniform":
            return ops.uniform_scores(stream.visual_index, keep=drop.keep)
        positions_BV = rows_of(places_of(stream.positions), stream.visual_index)
        return ops.random_scores(positions_BV, seed=drop.seed)


def _scale(layer: Any) -> float | None:
    """Of a layer's attention logits; None where the module leaves it at head_dim ** -0.5."""
    return getattr(layer.self_attn, "scaling", None)
