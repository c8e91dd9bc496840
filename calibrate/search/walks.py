"""Sets of drops as walks through the drop points: the variables and rows of an integer programme. No torch.

After drop point p the model has one of the counts k. With a binary y[c] for each choice, and for each point

    n[p,k]      1 where k tokens are left after it
    z[p,g,k]    1 where one of group g (kinds that cost the same there) is made and finds k tokens

a walk is

    n[p,k] = n[p-1,k] + Σ y[c of p that keep k] − Σ_g z[p,g,k]       no tokens appear from nowhere
    Σ_k z[p,g,k] = Σ y[c of p in g]                                  each choice finds some count,
    Σ_g z[p,g,k] ≤ n[p-1,k]                                          the one that is there,
    Σ y[c of p in g that keep ≥ t] ≤ Σ_{k>t} z[p,g,k]   for each t   which is larger than what it keeps

with n[-1,V] = 1. What else may not go together (`compatible`) are rows Σ y[some of p] + Σ y[those of q that go with
none of them] ≤ 1: at most one choice of a point is made, so one row does for many pairs. Costs are linear in n and z. A
set that was found is forbidden by Σ y[in it] − Σ y[not in it] ≤ |set| − 1.

n and z are whole as soon as y is. They are declared integers all the same: where they were continuous, the presolve of
HiGHS lost sets (`docs/decisions.md`).

Choices of one layer and keep count that go with the same others are of one kind. The programme knows kinds alone, each
with the least loss and the least cost of its members, so that it offers no set of kinds too late; `members` are the
sets themselves.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, compatible
from vitcop.calibrate.search.constraints import CostModel

SCALE = 1e4
"""Largest number in a row or an objective of losses or costs, so that the solver's absolute tolerances (about 1e-6) are
small beside what they hold."""

SLACK = 1e-9
"""What the solver is given above a limit, as a share of the largest number in the row; the caller checks its offers."""

Bounds = Mapping[str, tuple[float, float]]
"""Least and greatest "loss" or "cost"."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSet:
    """Compatible choices by ascending layer, their forecast loss in nats and their cost."""

    choices: tuple[Choice, ...]
    loss: float
    cost: float

    @property
    def name(self) -> str:
        """Names of the choices; "none" where there are none."""
        return " ".join(choice.name for choice in self.choices) or "none"


class Walks:
    """All sets of at most `max_drops` compatible choices.

    Args:
        losses: of each choice alone, in nats; those that are not finite, or that keep V tokens or more, are left out.
        of_one_cost: choices that do not cost the same are of different kinds; more to solve, and costs are exact.
    """

    def __init__(
        self, losses: Mapping[Choice, float], cost: CostModel, max_drops: int, *, of_one_cost: bool = False
    ) -> None:
        self.losses = {
            choice: loss for choice, loss in losses.items() if math.isfinite(loss) and choice.keep < cost.num_visual
        }
        self.cost = cost
        self.counts = sorted({cost.num_visual, *(choice.keep for choice in self.losses)}, reverse=True)
        self.points = sorted({AT_INPUT, *(choice.layer for choice in self.losses)})
        self._against = _incompatible(self.losses)
        self._kinds = self._by_kind(of_one_cost)
        # The order of variables decides which of equals a solver finds first.
        self.choices = sorted(self._kinds, key=lambda choice: (choice.layer, -choice.keep, choice.name))
        self._y = {choice: i for i, choice in enumerate(self.choices)}
        self._num = len(self.choices)
        self._rows: list[tuple[dict[int, float], float, float]] = []
        self._amounts = {"loss": np.array([self.losses[choice] for choice in self.choices]), "cost": self._walk()}
        self._amounts["loss"] = np.concatenate([self._amounts["loss"], np.zeros(self._num - len(self.choices))])
        self._scales = {what: SCALE / (float(np.abs(a).max()) or 1.0) for what, a in self._amounts.items()}
        self._rows.append((dict.fromkeys(range(len(self.choices)), 1.0), -np.inf, max_drops))
        spreads = [
            max(column) - min(column)
            for members in self._kinds.values()
            for column in zip(*map(self._drop_costs, members), strict=True)
        ]
        # How much more than in the programme a set may cost.
        self._hidden = max_drops * max(spreads, default=0.0)
        self._exclusions()

    def tolerance(self, what: str) -> float:
        """How far out of order `ascending` may offer sets, in the unit of "loss" or "cost"."""
        return 1e-4 / self._scales[what]

    def ascending(self, what: str, bounds: Bounds, without: Sequence[ChoiceSet] = ()) -> Iterator[ChoiceSet]:
        """Sets of the best of each kind, by ascending "loss" or "cost", one for each set of kinds that may be within
        the bounds; all up to the solver's tolerances.

        Args:
            without: sets that are not offered.
        """
        forbidden = list(without)
        while (found := self.extreme(what, bounds, forbidden)) is not None:
            forbidden.append(found)
            yield found

    def members(self, best: ChoiceSet) -> Iterator[ChoiceSet]:
        """`best`, which holds the best of each kind, and all sets with others of the same kinds, by ascending loss."""
        kinds = [self._kinds[choice] for choice in best.choices]

        def at(places: tuple[int, ...]) -> tuple[float, str, tuple[int, ...], ChoiceSet]:
            found = self._set_of([kind[i] for kind, i in zip(kinds, places, strict=True)])
            return found.loss, found.name, places, found

        first = (0,) * len(kinds)
        waiting, seen = [at(first)], {first}
        while waiting:
            _, _, places, item = heapq.heappop(waiting)
            yield item
            for i, kind in enumerate(kinds):
                following = (*places[:i], places[i] + 1, *places[i + 1 :])
                if following[i] < len(kind) and following not in seen:
                    seen.add(following)
                    heapq.heappush(waiting, at(following))

    def extreme(
        self, what: str, bounds: Bounds, without: Sequence[ChoiceSet] = (), *, largest: bool = False
    ) -> ChoiceSet | None:
        """The set of least, or of greatest, "loss" or "cost"; None where no set is within the bounds."""
        from scipy.optimize import Bounds as Ranges
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import csr_array

        rows = [*self._rows, *(self._without(found) for found in without)]
        for name, (least, most) in bounds.items():
            scale, fixed, hidden = self._scales[name], 0.0, 0.0
            if name == "cost":
                fixed, hidden = self.cost.fixed, self._hidden
            row = {int(i): scale * self._amounts[name][i] for i in np.flatnonzero(self._amounts[name])}
            ends = scale * (least - hidden - fixed) - SLACK * SCALE, scale * (most - fixed) + SLACK * SCALE
            rows.append((row, *ends))
        places = [(i, j, value) for i, (row, _, _) in enumerate(rows) for j, value in row.items()]
        i, j, values = (np.array(column) for column in zip(*places, strict=True))
        solved = milp(
            (-1.0 if largest else 1.0) * self._scales[what] * self._amounts[what],
            integrality=np.ones(self._num),
            bounds=Ranges(0, 1),
            constraints=LinearConstraint(
                csr_array((values, (i, j)), shape=(len(rows), self._num)),
                [least for _, least, _ in rows],
                [most for _, _, most in rows],
            ),
            options={"mip_rel_gap": 0.0},
        )
        if solved.status == 2:
            return None
        if solved.status != 0:
            raise RuntimeError(f"the integer programme was not solved: {solved.message}")
        return self._set_of([choice for choice, i in self._y.items() if solved.x[i] > 0.5])

    def _set_of(self, choices: Sequence[Choice]) -> ChoiceSet:
        """With its loss and its cost, both correctly rounded sums, so that equals are equal."""
        choices = tuple(sorted(choices, key=lambda choice: choice.layer))
        loss = math.fsum(self.losses[choice] for choice in choices)
        return ChoiceSet(choices=choices, loss=loss, cost=self.cost.of(choices))

    # -- rows: coefficients by variable, least and greatest sum -------------------------------------------------------

    def _without(self, found: ChoiceSet) -> tuple[dict[int, float], float, float]:
        row = dict.fromkeys(range(len(self.choices)), -1.0) | {self._y[choice]: 1.0 for choice in found.choices}
        return row, -np.inf, len(found.choices) - 1

    def _walk(self) -> np.ndarray:
        """Adds n and z and their rows; returns what each variable costs."""
        costs: dict[int, float] = {}
        before: dict[int, int] = {}
        for point, end in zip(self.points, [*self.points[1:], self.cost.num_layers], strict=True):
            here = [choice for choice in self.choices if choice.layer == point]
            after = self._new(self.counts)
            costs |= {i: (end - point) * self.cost.layer(count) for count, i in after.items()}
            balance = {count: {i: 1.0} for count, i in after.items()}
            finding: dict[int, dict[int, float]] = defaultdict(dict)
            groups: dict[tuple[float, ...], list[Choice]] = defaultdict(list)
            for choice in here:
                balance[choice.keep][self._y[choice]] = -1.0
                groups[tuple(map(min, zip(*map(self._drop_costs, self._kinds[choice]), strict=True)))].append(choice)
            for drop_costs, group in groups.items():
                finds = self._new(self.counts[:-1])
                costs |= dict(zip(finds.values(), drop_costs, strict=True))
                for count, i in finds.items():
                    balance[count][i] = finding[count][i] = 1.0
                made = {self._y[choice]: -1.0 for choice in group}
                self._rows.append((dict.fromkeys(finds.values(), 1.0) | made, 0, 0))
                for least in sorted({choice.keep for choice in group}):
                    larger = {i: -1.0 for count, i in finds.items() if count > least}
                    made = {self._y[choice]: 1.0 for choice in group if choice.keep >= least}
                    self._rows.append((larger | made, -np.inf, 0))
            for count, row in balance.items():
                start = float(not before and count == self.cost.num_visual)
                previous = {before[count]: -1.0} if before else {}
                self._rows.append((row | previous, start, start))
                if finding[count]:
                    self._rows.append((finding[count] | previous, -np.inf, start))
            before = after
        return np.array([costs.get(i, 0.0) for i in range(self._num)])

    def _new(self, counts: Sequence[int]) -> dict[int, int]:
        """A new variable for each count."""
        self._num += len(counts)
        return dict(zip(counts, range(self._num - len(counts), self._num), strict=True))

    def _drop_costs(self, choice: Choice) -> tuple[float, ...]:
        """What a choice costs at each count; the rows see to it that it finds none that is too small."""
        drop = self.cost.drop
        return tuple(drop(choice, count) if drop else 0.0 for count in self.counts[:-1])

    def _by_kind(self, of_one_cost: bool) -> dict[Choice, list[Choice]]:
        """Each kind by the best of its members; these by loss and name."""
        kinds: dict[tuple, list[Choice]] = defaultdict(list)
        for choice in sorted(self.losses, key=lambda choice: (self.losses[choice], choice.name)):
            against = frozenset(self._against[choice.layer, choice.rule])
            costs = self._drop_costs(choice) if of_one_cost else ()
            kinds[choice.layer, choice.keep, against, costs].append(choice)
        return {members[0]: members for members in kinds.values()}

    def _exclusions(self) -> None:
        """What may not go together beside counts that do not fall."""
        for first, second in combinations(self.points, 2):
            alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
            later = [choice for choice in self.choices if choice.layer == second]
            for choice in self.choices:
                if choice.layer == first:
                    against = self._against[first, choice.rule]
                    alike[tuple(self._y[other] for other in later if (second, other.rule) in against)].append(
                        self._y[choice]
                    )
            self._rows += [(dict.fromkeys((*made, *other), 1.0), -np.inf, 1) for other, made in alike.items() if other]


def _incompatible(choices: Iterable[Choice]) -> dict[tuple[int, Rule], set[tuple[int, Rule]]]:
    """What each rule in each layer does not go with, whatever the counts."""
    rules = dict.fromkeys((choice.layer, choice.rule) for choice in choices)
    against: dict[tuple[int, Rule], set[tuple[int, Rule]]] = {rule: set() for rule in rules}
    for first, second in combinations(sorted(rules, key=lambda item: item[0]), 2):
        (a, rule_a), (b, rule_b) = first, second
        if a < b and not compatible(Choice(layer=a, keep=2, rule=rule_a), Choice(layer=b, keep=1, rule=rule_b)):
            against[first].add(second)
            against[second].add(first)
    return against
