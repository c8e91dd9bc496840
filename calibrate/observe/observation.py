"""What the observed samples say together: which scores tell anything before which layer, and with which sign. No
torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitcop.calibrate.data.image_clusters import linked
from vitcop.calibrate.observe.key_norms import summary
from vitcop.calibrate.observe.pieces import Observed
from vitcop.calibrate.schedule.choices import AT_INPUT, TELLS_NOTHING, Rule
from vitcop.calibrate.schedule.score_names import SMALLEST, score_name, vision_rule
from vitcop.calibrate.stats.cluster_interval import Interval
from vitcop.plugins.errors import InputError

ATTENTION, GRADIENT = "attention", "gradient"
"""The two measures of dependence: on all samples, and on the checked ones."""

RANDOM = Rule(score="random")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A score against the dependence on each visual token, before one layer; means over samples.

    Args:
        dependence: "attention" or "gradient".
        layer: of the drop point; 0 is LLM input.
        score: as `score_name`.
        rank: Spearman's correlation; above 0 where tokens of large score matter.
        largest, smallest: share of the dependence that lies on the ninth of the tokens with largest (smallest) score.
    """

    dependence: str
    layer: int
    score: str
    rank: Interval
    largest: Interval
    smallest: Interval


@dataclass(frozen=True, kw_only=True)
class Check:
    """Spearman's agreement of attention with gradients before one layer, mean over the checked samples."""

    layer: int
    rank: Interval


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Of one model and sample set. Empty where no sample has visual tokens.

    Args:
        num: samples with visual tokens.
        pictures: how many different images or videos they are about (`image_clusters`).
        num_checked: samples of which gradients were taken.
        agreements: by dependence, layer and score.
        checks: by layer.
        k_norm: of each layer's own keys: for each head reduction mean, std, min, max and quantiles, and
            `text_query_correlation`, Spearman's correlation of the mean key's norm with the last text query's attention
            in that layer.
    """

    num: int
    pictures: int
    num_checked: int
    agreements: tuple[Agreement, ...]
    checks: tuple[Check, ...]
    k_norm: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, pieces: Sequence[Observed]) -> "Observation":
        """Of pieces in any order. Raises InputError where they overlap."""
        whole = Observed.joined(pieces).in_order()
        clusters = linked(whole.pictures)
        groups = {
            False: clusters,
            True: [cluster for cluster, checked in zip(clusters, whole.checked, strict=True) if checked],
        }

        def interval(rows: list[list[float]], column: int, least: float, *, checked: bool) -> Interval:
            return Interval.of([row[column] for row in rows], groups[checked], least=least, most=1.0)

        agreements, checks = [], []
        norms: dict[int, dict[str, Any]] = {}
        for name, rows in whole.values.items():
            kind, layer, *score = name.split("/", 2)
            if not rows:
                continue
            if kind == "check":
                checks.append(Check(layer=int(layer), rank=interval(rows, 0, -1.0, checked=True)))
            elif kind == "norms":
                entry = norms.setdefault(int(layer), {"layer": int(layer)})
                if score == ["text_query"]:
                    entry["text_query_correlation"] = sum(row[0] for row in rows) / len(rows)
                else:
                    entry[score[0]] = summary(rows)
            else:
                rank, *shares = (
                    interval(rows, i, least, checked=kind == GRADIENT) for i, least in enumerate((-1.0, 0.0, 0.0))
                )
                agreements.append(
                    Agreement(
                        dependence=kind,
                        layer=int(layer),
                        score=score[0],
                        rank=rank,
                        largest=shares[0],
                        smallest=shares[1],
                    )
                )
        return cls(
            num=len(whole.ids),
            pictures=len(set(clusters)),
            num_checked=sum(whole.checked),
            agreements=tuple(sorted(agreements, key=lambda item: (item.dependence, item.layer, item.score))),
            checks=tuple(sorted(checks, key=lambda item: item.layer)),
            k_norm=tuple(norms[layer] for layer in sorted(norms)),
        )

    # -- what follows from it -----------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """The drop points that were looked at, LLM input among them."""
        return tuple(sorted({item.layer for item in self.agreements}))

    def agreement(self, layer: int, score: str, dependence: str = ATTENTION) -> Agreement:
        """One entry. Raises InputError where there is none."""
        for item in self.agreements:
            if (item.layer, item.score, item.dependence) == (layer, score, dependence):
                return item
        raise InputError(f"no score {score!r} was observed before layer {layer}")

    def rank(self, layer: int, rule: Rule, dependence: str = ATTENTION) -> Interval:
        """Spearman's agreement of a rule's ranking, what it keeps first, with the dependence."""
        found = self.agreement(layer, score_name(rule), dependence).rank
        turned = rule.order == SMALLEST and rule.score not in TELLS_NOTHING
        return Interval(-found.mean, -found.high, -found.low) if turned else found

    def held(self, layer: int, rule: Rule, dependence: str = ATTENTION) -> Interval:
        """Share of the dependence that lies on the ninth of the tokens that a rule keeps first."""
        found = self.agreement(layer, score_name(rule), dependence)
        turned = rule.order == SMALLEST and rule.score not in TELLS_NOTHING
        return found.smallest if turned else found.largest

    def tells(self, layer: int, rule: Rule) -> bool:
        """Whether a rule beats random before a layer, by attention.

        It does where the lower end of its 95 % interval lies above the upper end of random's: of the rank agreement
        (and above 0), or of the share that its first ninth holds. Ranks weigh all tokens alike, most of which hardly
        matter; the share sees the few that a small budget keeps. A merge is judged by the score that it reads; what its
        clusters do is not in here. Raises InputError for scores that were not observed there.
        """
        return self.ranks_better(layer, rule) or self.holds_more(layer, rule)

    def ranks_better(self, layer: int, rule: Rule, dependence: str = ATTENTION) -> bool:
        """The half of `tells` that looks at ranks."""
        random = self.rank(layer, RANDOM, dependence)
        return rule.score != "random" and self.rank(layer, rule, dependence).low > max(0.0, random.high)

    def holds_more(self, layer: int, rule: Rule, dependence: str = ATTENTION) -> bool:
        """The half of `tells` that looks at shares."""
        random = self.held(layer, RANDOM, dependence)
        return rule.score != "random" and self.held(layer, rule, dependence).low > random.high

    def best(self, layer: int, rules: Sequence[Rule]) -> Rule | None:
        """Of some rules the one whose first ninth holds most, if it tells anything; of equals the first."""
        telling = [rule for rule in rules if self.tells(layer, rule)]
        return max(telling, key=lambda rule: self.held(layer, rule).mean, default=None)


def columns_of(entries: Sequence[Agreement]) -> list[str]:
    """Names of the scores, as rules inside the model have them; controls last."""
    names = dict.fromkeys(inside_name(item) for item in entries)
    return [name for name in names if name not in TELLS_NOTHING] + [name for name in TELLS_NOTHING if name in names]


def inside_name(item: Agreement) -> str:
    """The name of a score; a vision score at LLM input has the one by which it is carried along later."""
    if item.layer != AT_INPUT or item.score in TELLS_NOTHING:
        return item.score
    return score_name(vision_rule(AT_INPUT + 1, item.score))
