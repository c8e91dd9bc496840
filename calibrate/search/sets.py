"""Putting drops together: the sets of least forecast loss under a constraint, by looking at all of them. No torch.

The forecast of a set is the sum of the losses that each of its drops alone was measured to have. Keep counts fall on a
ladder, so even a model of 32 layers has some ten thousand sets of cells (a layer and a keep count). Each has a least
loss and a least cost, over the rules of its cells; in the order of these, rules are put in by ascending loss until no
further set of cells can hold anything better. Sums are correctly rounded, so equals are equal.

Ties: sets of equal loss are ordered by cost, then by name; under "max_loss" by cost, then loss, then name.
"""

import heapq
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, pairwise
from operator import attrgetter
from typing import Literal

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, compatible, named
from vitcop.calibrate.search.constraints import Constraint, CostModel
from vitcop.plugins.errors import InputError

Cell = tuple[int, int]
"""(layer, keep count)"""

_BY_LOSS, _BY_COST = attrgetter("loss", "cost"), attrgetter("cost", "loss")
_LOSS, _COST = attrgetter("loss"), attrgetter("cost")


@dataclass(frozen=True, kw_only=True)
class ChoiceSet:
    """Compatible choices by ascending layer, their forecast loss in nats and their cost."""

    choices: tuple[Choice, ...]
    loss: float
    cost: float

    @property
    def name(self) -> str:
        """Names of the choices; "none" where there are none."""
        return named(self.choices)


@dataclass(frozen=True)
class _CellSet:
    """Cells of ascending layers and falling counts; no set of choices in them has less loss or less cost."""

    cells: tuple[Cell, ...]
    loss: float
    cost: float


def best_sets(
    losses: Mapping[Choice, float],
    cost: CostModel,
    constraint: Constraint,
    *,
    max_drops: int,
    num_best: int = 1,
    at_least: float = 0.0,
) -> list[ChoiceSet]:
    """The `num_best` sets of least loss that meet the constraint, or of least cost under "max_loss"; best first.

    Args:
        losses: of each choice alone, in nats. Choices whose loss is not finite, or that keep V tokens or more, are
            left out.
        cost: in the unit of the constraint (a "budget" counts tokens: `token_cost`); under "max_loss" in any.
        max_drops: most choices in a set, one at LLM input counted. The empty set is one of the sets.
        at_least: share of a cost limit below which a set is left out where there are others, in [0, 1]; means nothing
            under "max_loss".

    Fewer are returned where there are no more. Raises InputError, which names the least value that can be met, where
    there is none.
    """
    table, limit = _Table(losses, cost, max_drops), constraint.limit(cost)
    if constraint.limits_loss:
        return table.first(num_best, least="cost", within=(-math.inf, limit))
    for floor in (at_least * limit, -math.inf):
        if found := table.first(num_best, least="loss", within=(floor, limit)):
            return found
    (nearest,) = table.first(1, least="cost", within=(-math.inf, math.inf))
    raise InputError(
        f"{constraint.kind} {constraint.value:g}: no set of at most {max_drops} of these drops meets it; the nearest "
        f"that can be met is {constraint.shown(nearest.cost, cost)}"
    )


class _Table:
    """Choices by cell, and the sets of cells that they make."""

    def __init__(self, losses: Mapping[Choice, float], cost: CostModel, max_drops: int) -> None:
        self.losses = {
            choice: loss for choice, loss in losses.items() if math.isfinite(loss) and choice.keep < cost.num_visual
        }
        drop = cost.drop
        self.cost = cost if drop is None else replace(cost, drop=cache(drop))
        self.by_cell: dict[Cell, list[Choice]] = defaultdict(list)
        for choice in sorted(self.losses, key=lambda choice: (self.losses[choice], choice.name)):
            self.by_cell[choice.layer, choice.keep].append(choice)
        self._least_drop = cache(self._cheapest_drop)
        self._compatible = cache(compatible)
        self.sets = [self._bounded(cells) for num in range(max_drops + 1) for cells in self._cells(num)]

    def first(self, num: int, *, least: Literal["loss", "cost"], within: tuple[float, float]) -> list[ChoiceSet]:
        """The `num` sets of least loss whose cost is within the bounds, or of least cost whose loss is."""
        by_loss = least == "loss"
        rank, limited = (_BY_LOSS, _COST) if by_loss else (_BY_COST, _LOSS)
        found: list[ChoiceSet] = []
        for cells in sorted(self.sets, key=rank):
            if len(found) == num and rank(cells) > rank(found[-1]):
                break
            if limited(cells) > within[1]:
                continue
            for item in self._members(cells.cells):
                worst = found[-1].loss if len(found) == num else math.inf
                if item.loss > (worst if by_loss else within[1]):
                    break
                if within[0] <= limited(item) <= within[1]:
                    insort(found, item, key=lambda item: (*rank(item), item.name))
                    del found[num:]
        return found

    def _cells(self, num: int) -> Iterator[tuple[Cell, ...]]:
        """Sets of so many cells, of ascending layers and falling counts."""
        layers, keeps = (sorted({cell[i] for cell in self.by_cell}) for i in range(2))
        for chosen in combinations(layers, num):
            for counts in combinations(reversed(keeps), num):
                cells = tuple(zip(chosen, counts, strict=True))
                if all(cell in self.by_cell for cell in cells):
                    yield cells

    def _bounded(self, cells: tuple[Cell, ...]) -> _CellSet:
        counts = [self.cost.num_visual, *(keep for _, keep in cells)]
        borders = [AT_INPUT, *(layer for layer, _ in cells), self.cost.num_layers]
        spent = [(b - a) * self.cost.layer(count) for (a, b), count in zip(pairwise(borders), counts, strict=True)]
        drops = [self._least_drop(cell, count) for cell, count in zip(cells, counts, strict=False)]
        return _CellSet(
            cells=cells,
            loss=math.fsum(self.losses[self.by_cell[cell][0]] for cell in cells),
            cost=math.fsum([self.cost.fixed, *spent, *drops]),
        )

    def _cheapest_drop(self, cell: Cell, count: int) -> float:
        drop = self.cost.drop
        return min(drop(choice, count) for choice in self.by_cell[cell]) if drop else 0.0

    def _members(self, cells: tuple[Cell, ...]) -> Iterator[ChoiceSet]:
        """All sets of compatible choices in these cells, by ascending loss."""
        places = (0,) * len(cells)
        waiting, seen = [(self._loss(cells, places), places)], {places}
        while waiting:
            loss, places = heapq.heappop(waiting)
            choices = tuple(self.by_cell[cell][i] for cell, i in zip(cells, places, strict=True))
            if all(self._compatible(a, b) for a, b in combinations(choices, 2)):
                yield ChoiceSet(choices=choices, loss=loss, cost=self.cost.of(choices))
            for i, cell in enumerate(cells):
                following = (*places[:i], places[i] + 1, *places[i + 1 :])
                if following[i] < len(self.by_cell[cell]) and following not in seen:
                    seen.add(following)
                    heapq.heappush(waiting, (self._loss(cells, following), following))

    def _loss(self, cells: tuple[Cell, ...], places: tuple[int, ...]) -> float:
        return math.fsum(self.losses[self.by_cell[cell][i]] for cell, i in zip(cells, places, strict=True))
