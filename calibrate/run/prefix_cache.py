"""Prefixes of batches, so that the schedules tried on one sample set run only what no earlier one has run.

Of the unpruned model they are held before every candidate layer up to the farthest that was asked for; of other stems
before the drops of the schedule at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.prefix import Prefix, stem
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache
from vitcop.calibrate.schedule.schedule import Schedule

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


@dataclass
class _Entry:
    """A prefix, the object that its batch is known by (kept alive here), and what it holds alone."""

    inputs: Any
    prefix: Prefix
    num_bytes: int


class PrefixCache:
    """Prefixes by batch, layer and stem.

    A batch is known by its model inputs, as in VisionCache. What is computed on the way to a prefix is what the
    schedule would have run anyway, so nothing is lost where nothing fits. Prefixes of the unpruned model stay once they
    are held, those of other stems make room for newer stems.

    Args:
        layers: decoder layers before which prefixes of the unpruned model are held, ascending.
        limit_bytes: of tensors held on the model's device.
    """

    def __init__(
        self,
        model: Any,
        family: "Family",
        *,
        layers: Sequence[int],
        vision: VisionCache | None = None,
        limit_bytes: int = 2 << 30,
    ) -> None:
        self.model, self.family, self.vision = model, family, vision
        self.layers, self.limit_bytes = tuple(layers), limit_bytes
        self.num_bytes = 0
        self._unpruned = Schedule(num_layers=family.num_layers)
        self._held: dict[tuple[int, int, Schedule], _Entry] = {}

    def before(self, schedule: Schedule, batch: PromptBatch) -> Prefix | None:
        """The last prefix that a run of the schedule on this batch can start from; None where there is none."""
        points = self._points(schedule, batch.num_visual)
        found, missing = None, points
        for i in reversed(range(len(points))):
            found = self._get(batch, *points[i])
            if found is not None:
                missing = points[i + 1 :]
                break
        for layer, of in missing:
            found = self._make(batch, layer, of, found)
        return found

    def _points(self, schedule: Schedule, num_visual: int) -> list[tuple[int, Schedule]]:
        """Layers before which to hold what runs under this schedule, ascending, and their stems."""
        drops = [drop.layer for drop in schedule.drops]
        if not drops:
            return []
        points = [(layer, stem(schedule, layer, num_visual)) for layer in sorted({*self.layers, *drops})]
        return [
            (layer, of)
            for layer, of in points
            if layer <= drops[-1] and (layer in self.layers if of == self._unpruned else layer in drops)
        ]

    def _get(self, batch: PromptBatch, layer: int, of: Schedule) -> Prefix | None:
        key = (id(batch.model_inputs), layer, of)
        entry = self._held.get(key)
        if entry is None:
            return None
        if of != self._unpruned:
            self._held[key] = self._held.pop(key)
        return entry.prefix

    def _make(self, batch: PromptBatch, layer: int, of: Schedule, start: Prefix | None) -> Prefix:
        """Run the model on from the prefix before it; held where it fits."""
        runner = ScheduledRunner(self.model, self.family, of, vision=self.vision)
        (found,) = runner.prefixes(batch, [layer], start)
        self._hold(batch, found, start)
        return found

    def _hold(self, batch: PromptBatch, found: Prefix, start: Prefix | None) -> None:
        shared = 0
        if start is not None and start.stem == self._unpruned:
            if self._get(batch, start.layer, start.stem) is start:
                shared = start.layer
            elif found.stem == self._unpruned:
                return  # held without a gap, so that the next search for a start finds the last of them
        num_bytes = _bytes_from(found, shared)
        self._make_room(num_bytes, found.stem)
        if self.num_bytes + num_bytes <= self.limit_bytes:
            key = (id(batch.model_inputs), found.layer, found.stem)
            self._held[key] = _Entry(batch.model_inputs, found, num_bytes)
            self.num_bytes += num_bytes

    def _make_room(self, num_bytes: int, of: Schedule) -> None:
        """Let go of prefixes of other pruned stems, those longest unused first, if that is enough. Those of the same
        stem stay: a pass over all batches would throw out each before it comes back to it."""
        needed = self.num_bytes + num_bytes - self.limit_bytes
        if needed <= 0:
            return
        others = [key for key in self._held if key[2] not in (self._unpruned, of)]
        if sum(self._held[key].num_bytes for key in others) < needed:
            return
        for key in others:
            freed = self._held.pop(key).num_bytes
            self.num_bytes -= freed
            needed -= freed
            if needed <= 0:
                return


def _bytes_from(prefix: Prefix, layer: int) -> int:
    """Bytes of what a prefix holds, without the keys and values before `layer`. What it shares with another pruned one
    counts for both: either may be let go of first."""
    stream = prefix.stream
    mine = (stream.hidden, *stream.planes, stream.positions, stream.mask, stream.visual_index, prefix.query)
    tensors = (*mine, *prefix.keys[layer:], *prefix.values[layer:])
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
