"""The model under a schedule, in PyTorch: the Hugging Face decoder layers walked one by one, with the reference ops
between them.

The independent second implementation beside the rewritten graph; `verify` holds one against the other.

Shape letters: B batch, S sequence, V visual tokens now present, R visual tokens after a drop, T new tokens, P cached
tokens, H hidden.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.models.recording import recording
from vitcop.calibrate.run.attention_masks import causal_mask
from vitcop.calibrate.run.caches import cache_argument
from vitcop.calibrate.run.device_inputs import PromptTensors, VisionTensors, places_of, rows_of
from vitcop.calibrate.run.original import OriginalRunner, cache_bytes, clock, next_positions
from vitcop.calibrate.run.prefix import Prefix, Prefixes, Walk, stem
from vitcop.calibrate.run.runner import Prefill
from vitcop.calibrate.run.stream import Dropped, Stream, drop_tokens
from vitcop.calibrate.run.vision_stage import VisionCache, VisionKept, VisionOutput, keep_patches, run_vision, see
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.plugins import ops
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family

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


class ScheduledRunner:
    """Runs a transformers model under a schedule.

    Args:
        vision: shared between runners of one model so that the vision tower runs once for each batch; None runs it each
            time.
        prefixes: shared between runners of one model so that `prefill` runs only what none of them has run of a batch.
        keep: makes what enters the language model of what the vision tower gives, in place of the schedule's vision
            stage: for methods that no schedule says.

    Raises InputError where the schedule is for another depth than the model's, or asks for a score that it lacks, or
    where sliding windows meet FlashAttention.
    """

    def __init__(
        self,
        model: Any,
        family: "Family",
        schedule: Schedule,
        *,
        name: str = "scheduled",
        vision: VisionCache | None = None,
        prefixes: Prefixes | None = None,
        keep: Callable[[VisionOutput], VisionKept] | None = None,
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
        self.model = model
        self.family = family
        self.schedule = schedule
        self.name = name
        assert keep is None or schedule.vision is None, "two vision stages"
        assert keep is None or prefixes is None, "prefixes are known by their schedules"
        self._vision = vision
        self._prefixes = prefixes
        self._keep_by = keep
        self._decoder = decoder
        self._sliding = family.sliding_layers
        self._drops = {drop.layer: drop for drop in schedule.drops}
        self._group_of = [g for g, layers in enumerate(schedule.groups) for _ in layers]

    @torch.inference_mode()
    def prefill(self, batch: PromptBatch, prefix: Prefix | None = None) -> Prefill:
        """Run vision tower and prompt, or only what comes behind a prefix of this batch (of a schedule of equal stem);
        `seconds` then lacks what the prefix took."""
        if prefix is None and self._prefixes is not None:
            prefix = self._prefixes.before(self.schedule, batch)
        device = self.model.device
        begun = clock(device)
        kept = self._keep_beside(batch, prefix)
        seen = clock(device)
        found = self.read(PromptTensors.of(batch, device), kept, prefix)
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
    def prefixes(self, batch: PromptBatch, layers: Sequence[int], start: Prefix | None = None) -> list[Prefix]:
        """What stands before each of these decoder layers (ascending, within 1..L-1), in one pass as far as the last of
        them; `start`, before an earlier layer, saves the way up to it. Their keys and values are shared."""
        kept = self._keep_beside(batch, start)
        walk = self._begin(PromptTensors.of(batch, self.model.device), kept, start)
        found = []
        for layer in layers:
            self._walk(walk, layer, asks=True)
            found.append(walk.prefix(stem(self.schedule, layer, batch.num_visual)))
        return found

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
            kept = self._kept(see(self.model, self.family, vision))
        return self.read(prompt, kept)

    @torch.inference_mode()
    def read(self, prompt: PromptTensors, kept: VisionKept | None, prefix: Prefix | None = None) -> DevicePrefill:
        """The language model's part of `forward`, or what of it comes behind a prefix; there `kept` is None where the
        schedule has no vision stage."""
        walk = self._begin(prompt, kept, prefix)
        self._walk(walk, len(self._decoder.layers))
        return DevicePrefill(
            logits=self.family.lm_head(self.model)(self._decoder.norm(walk.stream.hidden[:, -1:]))[:, -1].float(),
            state=ScheduledState(
                cache=walk.cache,
                masks=walk.masks,
                places=walk.places,
                next_position=prompt.next_position,
            ),
            vision=Dropped(kept_visual=kept.kept_patches, scores=kept.scores, labels=kept.labels, relabel=kept.relabel)
            if kept is not None and (self.schedule.vision or self._keep_by)
            else None,
            drops=tuple(walk.dropped),
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
                **cache_argument(state.cache),
                use_cache=True,
            )
        state.next_position = state.next_position + ids_BT.shape[1]
        return self.family.lm_head(self.model)(self._decoder.norm(hidden)).float().cpu().numpy()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _begin(self, prompt: PromptTensors, kept: VisionKept | None, prefix: Prefix | None) -> Walk:
        """Before the first layer, or before that of a prefix."""
        from transformers import DynamicCache

        if prefix is not None:
            self._check_prefix(prompt, prefix)
            return Walk.along(prefix, prefix.stream_of(self.schedule, kept))
        assert kept is not None, "without a prefix there are features"
        stream = self._enter(prompt, kept)
        return Walk(
            layer=0,
            stream=stream,
            query=None,
            cache=DynamicCache(),
            masks=[stream.mask],
            places=[places_of(stream.positions)],
            dropped=[],
        )

    def _check_prefix(self, prompt: PromptTensors, prefix: Prefix) -> None:
        mine = stem(self.schedule, prefix.layer, prompt.visual_index.shape[1])
        assert mine == prefix.stem, f"a prefix of {prefix.stem} does not lead to {mine}"
        assert len(prefix.stream.mask) == len(prompt.input_ids), "a prefix of another batch"

    def _walk(self, walk: Walk, until: int, *, asks: bool = False) -> None:
        """On to decoder layer `until`, the drop before it not made; `asks` for the last text query of the layer before
        it."""
        rotary, attend = self._geometry(walk.stream)
        for i in range(walk.layer, until):
            layer, following = self._decoder.layers[i], self._drops.get(i + 1)
            if i in self._drops:
                scores_BV = self._scores(self._drops[i], walk.stream, walk.cache.layers[i - 1].keys, walk.query)
                walk.stream, what = drop_tokens(self.schedule, self._drops[i], walk.stream, scores_BV)
                walk.dropped.append(what)
                walk.masks.append(walk.stream.mask)
                walk.places.append(places_of(walk.stream.positions))
                rotary, attend = self._geometry(walk.stream)
            asked = (asks and i + 1 == until) or (following is not None and following.score == "text_query")
            with recording(layer.self_attn) if asked else nullcontext() as seen:
                hidden = layer(
                    walk.stream.hidden,
                    attention_mask=attend[i in self._sliding],
                    position_embeddings=rotary,
                    **cache_argument(walk.cache),
                    use_cache=True,
                )
            walk.layer = i + 1
            walk.stream = replace(walk.stream, hidden=hidden).with_next_plane()
            # A row of its own: a view would keep the queries of all tokens.
            walk.query = seen.queries[0][:, :, -1].clone(memory_format=torch.contiguous_format) if seen else None

    def _keep_beside(self, batch: PromptBatch, prefix: Prefix | None) -> VisionKept | None:
        """What the vision stage keeps; None behind a prefix where there is no such stage: the features are in it."""
        return self._keep(batch) if prefix is None or self.schedule.vision is not None else None

    def _keep(self, batch: PromptBatch) -> VisionKept:
        def compute() -> Any:
            return run_vision(self.model, self.family, batch)

        if not batch.num_visual:
            return self._nothing(len(batch.input_ids))
        output = self._vision.get(batch, compute) if self._vision else compute()
        return self._kept(output)

    def _kept(self, output: VisionOutput) -> VisionKept:
        return self._keep_by(output) if self._keep_by else keep_patches(output, self.schedule.vision)

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
        return Stream(
            hidden=embeds_BSH.scatter(1, index_BVH, features_BVH),
            positions=prompt.positions,
            mask=prompt.mask,
            visual_index=prompt.visual_index,
            saliency=kept.saliency,
            labels=kept.labels,
            planes=kept.planes[1:],
        )

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

    def _scores(
        self, drop: Drop, stream: Stream, keys_BNkvSD: torch.Tensor, query_BNhD: torch.Tensor | None
    ) -> torch.Tensor:
        """fp32 [B,V]."""
        if drop.score == "k_norm":
            return ops.knorm_scores(keys_BNkvSD, stream.visual_index, head_reduction=drop.head_reduction)
        if drop.score == "text_query":
            scale = _scale(self._decoder.layers[drop.layer - 1])
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
