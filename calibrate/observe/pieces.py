"""What was observed of some samples, number by number: pieces of any size that join by concatenation. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vitcop.plugins.errors import InputError

DIGITS = 6
"""Decimals that are kept: far below any standard error, and short in files."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Of each sample with visual tokens; prompts of text alone are left out.

    Args:
        ids: of the samples.
        pictures: of each, names of its images or video; samples that share one are not independent.
        checked: of each, whether gradients were taken for it.
        values: by name, a list with one entry for each sample:
            `attention/LAYER/SCORE`: [Spearman's agreement of the score with the dependence by attention before that
            layer, share of the dependence on the ninth of largest score, share on the ninth of smallest];
            `gradient/LAYER/SCORE`: the same with gradients, of the checked samples alone;
            `check/LAYER`: [agreement of attention with gradients], of the checked alone;
            `norms/LAYER/REDUCTION`: [count, mean, std, min, max, quantiles…] of that layer's key norms;
            `norms/LAYER/text_query`: [agreement of the norm of the mean key with the last text query's attention].
    """

    ids: tuple[str, ...] = ()
    pictures: tuple[tuple[str, ...], ...] = ()
    checked: tuple[bool, ...] = ()
    values: dict[str, list[list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {False: len(self.ids), True: sum(self.checked)}
        fits = (len(entries) == lengths[of_checked(name)] for name, entries in self.values.items())
        if not (len(self.pictures) == len(self.checked) == len(self.ids) and all(fits)):
            raise InputError("not an observation: its lists differ in length")

    @classmethod
    def joined(cls, pieces: "Sequence[Observed]") -> "Observed":
        """The pieces one after another. Raises InputError where two hold the same sample."""
        ids = tuple(sample for piece in pieces for sample in piece.ids)
        if len(set(ids)) < len(ids):
            twice = next(sample for sample in ids if ids.count(sample) > 1)
            raise InputError(f"sample {twice} was observed twice: these pieces overlap and cannot be joined")
        names = sorted({name for piece in pieces for name in piece.values})
        return cls(
            ids=ids,
            pictures=tuple(picture for piece in pieces for picture in piece.pictures),
            checked=tuple(checked for piece in pieces for checked in piece.checked),
            values={name: [entry for piece in pieces for entry in piece.values.get(name, [])] for name in names},
        )

    def in_order(self) -> "Observed":
        """By sample id, so that sums over samples do not depend on how these were cut into pieces."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        # Place of each sample among the checked ones.
        place, seen = {}, 0
        for i, checked in enumerate(self.checked):
            place[i] = seen
            seen += checked
        some = [place[i] for i in order if self.checked[i]]
        return Observed(
            ids=tuple(self.ids[i] for i in order),
            pictures=tuple(self.pictures[i] for i in order),
            checked=tuple(self.checked[i] for i in order),
            values={
                name: [entries[i] for i in (some if of_checked(name) else order)]
                for name, entries in sorted(self.values.items())
            },
        )


def of_checked(name: str) -> bool:
    """Whether values of this name exist for checked samples alone."""
    return name.startswith(("gradient/", "check/"))
