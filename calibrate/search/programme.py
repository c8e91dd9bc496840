"""Putting drops together: the sets of least forecast loss under a constraint, by an integer programme. No torch.

The forecast of a set is the sum of the losses that each of its drops alone was measured to have. `walks.py` says what a
set is; HiGHS (scipy.optimize.milp) finds the best set of kinds of drops, then the best of the others, and so on; drops
of these kinds are put in until the next set of kinds cannot be better.

Ties: sets of equal loss are ordered by cost, then by name; under "max_loss" by cost, then loss, then name. The search
goes on until the solver offers a set that is worse than the n-th by more than its tolerances, so that the answer does
not depend on which of equals it offers first, as long as these are no more than `MAX_TIES`.
"""

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping

from vitcop.calibrate.schedule.choices import Choice
from vitcop.calibrate.search.constraints import Constraint, CostModel
from vitcop.calibrate.search.walks import Bounds, ChoiceSet, Walks
from vitcop.plugins.errors import InputError

MAX_TIES = 32
"""Sets beyond the n-th that are looked at for ties."""


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
        at_least: share of a cost limit below which a set is left out, in [0, 1]; means nothing under "max_loss".

    Fewer are returned where there are no more. Raises InputError, which names the nearest value that can be met, where
    there is none.
    """
    walks, limit = Walks(losses, cost, max_drops, of_one_cost=constraint.limits_loss), constraint.limit(cost)
    if constraint.limits_loss:
        bounds: Bounds = {"loss": (-math.inf, limit)}
        found = _by_cost(walks, limit, num_best)
    else:
        bounds = {"cost": (at_least * limit if at_least else -math.inf, limit)}
        found = _by_loss(walks, walks.ascending("loss", bounds), num_best, bounds)
    if not found:
        walks = Walks(losses, cost, max_drops, of_one_cost=True)
        raise InputError(_nearest(walks, constraint, bounds, max_drops))
    return found


def _by_loss(walks: Walks, offered: Iterable[ChoiceSet], num: int, bounds: Bounds) -> list[ChoiceSet]:
    """The `num` of least loss within the bounds, of sets of kinds that come by ascending loss."""
    found: list[ChoiceSet] = []

    def is_late(item: ChoiceSet) -> bool:
        return len(found) >= num and item.loss > found[num - 1].loss + walks.tolerance("loss")

    for kinds in offered:
        if is_late(kinds) or len(found) == num + MAX_TIES:
            break
        taken = 0
        for item in walks.members(kinds):
            if is_late(item) or taken == num + MAX_TIES:
                break
            if _within(item, bounds):
                taken += 1
                insort(found, item, key=lambda other: (other.loss, other.cost, other.name))
        while found and is_late(found[-1]):
            found.pop()
        del found[num + MAX_TIES :]
    return found[:num]


def _by_cost(walks: Walks, limit: float, num: int) -> list[ChoiceSet]:
    """Many sets cost the same, so those of one cost are gone through by loss before those of the next."""
    found: list[ChoiceSet] = []
    seen: list[ChoiceSet] = []
    bounds = {"loss": (-math.inf, limit)}
    while len(found) < num:
        cheapest = walks.extreme("cost", bounds, seen)
        if cheapest is None:
            break
        level = bounds | {"cost": (-math.inf, cheapest.cost + walks.tolerance("cost"))}

        def offered(cheapest: ChoiceSet = cheapest, level: Bounds = level) -> Iterator[ChoiceSet]:
            for item in walks.ascending("loss", level, tuple(seen)):
                seen.append(item)
                yield item
            if cheapest not in seen:  # by the solver's tolerances; without this the loop would not end
                seen.append(cheapest)
                yield cheapest

        found += _by_loss(walks, offered(), num - len(found), bounds)
    return sorted(found, key=lambda item: (item.cost, item.loss, item.name))


def _within(item: ChoiceSet, bounds: Bounds) -> bool:
    return all(least <= getattr(item, what) <= most for what, (least, most) in bounds.items())


def _nearest(walks: Walks, constraint: Constraint, bounds: Bounds, max_drops: int) -> str:
    """What to tell the user whose constraint no set meets."""
    ((what, (least, most)),) = bounds.items()
    ends = [walks.extreme(what, {what: (most, math.inf)})]
    if least > -math.inf:
        ends.append(walks.extreme(what, {what: (-math.inf, least)}, largest=True))
    amounts = [getattr(end, what) for end in ends if end is not None]
    nearest = min(amounts, key=lambda amount: max(amount - most, least - amount))
    return (
        f"{constraint.kind} {constraint.value:g}: no set of at most {max_drops} of these drops meets it; the nearest "
        f"that can be met is {constraint.shown(nearest, walks.cost)}"
    )
