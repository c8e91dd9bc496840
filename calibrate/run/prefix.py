"""What a model under a schedule holds before one of its decoder layers, so that schedules which differ only from there
on share the work up to it.

Shape letters: B batch, S sequence, V visual tokens now present, Nh query heads, Nkv key-value heads, D head dim.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.stream import Dropped, Stream
from vitcop.calibrate.schedule.schedule import Schedule

if TYPE_CHECKING:
    from vitcop.calibrate.run.vision_stage import VisionKept


def stem(schedule: Schedule, layer: int, num_visual: int) -> Schedule:
    """The part of a schedule that decides what stands before decoder layer `layer`, its own drop not yet made.

    Schedules of equal stems share a prefix. Clusters and a vision stage that keeps all of `num_visual` tokens change
    nothing before the first drop inside the language model; what they say of the tokens is brought along by each
    schedule itself.
    """
    drops = tuple(drop for drop in schedule.drops if drop.layer < layer)
    vision = schedule.vision
    if not drops and vision is not None:
        whole = schedule.vision_count(num_visual) == num_visual
        vision = None if whole else replace(vision, clusters=None)
    return Schedule(num_layers=schedule.num_layers, vision=vision, drops=drops)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """A prefill that has reached decoder layer `layer`. Nothing in it is ever written to, so prefixes share tensors.

    Args:
        layer: the next decoder layer, at least 1; its own drop is not yet made.
        stem: what led here.
        stream: what stands before the layer. Saliency and labels count only where the stem has drops.
        query: [B,Nh,D], the last text query of the layer before.
        keys, values: [B,Nkv,S,D] of each layer before.
        masks, places: bool and int64 [B,S] of each layer group so far.
        dropped: what each drop of the stem did.
    """

    layer: int
    stem: Schedule
    stream: Stream
    query: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    masks: tuple[torch.Tensor, ...]
    places: tuple[torch.Tensor, ...]
    dropped: tuple[Dropped, ...] = ()

    def stream_of(self, schedule: Schedule, kept: "VisionKept | None") -> Stream:
        """The stream under a schedule of this stem; `kept` is of its vision stage, None where it has none."""
        if self.stem.drops or kept is None:
            return self.stream
        return replace(self.stream, saliency=kept.saliency, labels=kept.labels)

    def cache(self) -> Any:
        """A new transformers cache that holds the keys and values without copying them; it grows by making new ones."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        return cache


@dataclass(kw_only=True)
class Walk:
    """A prefill on its way through the decoder layers; see Prefix. `cache` is a transformers cache."""

    layer: int
    stream: Stream
    query: torch.Tensor | None
    cache: Any
    masks: list[torch.Tensor]
    places: list[torch.Tensor]
    dropped: list[Dropped]

    @classmethod
    def along(cls, prefix: Prefix, stream: Stream) -> "Walk":
        """On from a prefix, with the stream as the schedule sees it."""
        return cls(
            layer=prefix.layer,
            stream=stream,
            query=prefix.query,
            cache=prefix.cache(),
            masks=list(prefix.masks),
            places=list(prefix.places),
            dropped=list(prefix.dropped),
        )

    def prefix(self, of: Schedule) -> Prefix:
        """What is here now, of this stem."""
        layers = self.cache.layers[: self.layer]
        return Prefix(
            layer=self.layer,
            stem=of,
            stream=self.stream,
            query=self.query,
            keys=tuple(layer.keys for layer in layers),
            values=tuple(layer.values for layer in layers),
            masks=tuple(self.masks),
            places=tuple(self.places),
            dropped=tuple(self.dropped),
        )


class Prefixes(Protocol):
    """Where a run looks for what earlier runs have left (`prefix_cache.PrefixCache`)."""

    def before(self, schedule: Schedule, batch: PromptBatch) -> Prefix | None:
        """The last prefix that a run of the schedule on this batch can start from; None where there is none."""
        ...
