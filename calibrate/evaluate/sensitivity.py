"""The sensitivity table: what one drop alone costs, by layer, keep count and rule.

All rules of one cell (layer and keep count) compete by successive halving over parts of the calibration set. After each
part but the last a choice is cut when its KL is clearly above that of the best so far: when the mean of the paired
differences (its KL − the best one's, sample by sample) is more than `CLEARLY` standard errors above zero, the standard
error being that of a mean over images (samples of one image are not independent), and at least `LEAST_IMAGES` images
have been seen. A choice whose loss is not finite is cut at once. The best is never cut, and those that are left have
seen every sample. Nothing is drawn: equal inputs give equal tables.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.strict_json import from_json, plain, to_json
from vitcop.calibrate.evaluate.losses import Estimate
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, schedule_of
from vitcop.calibrate.stats.intervals import standard_error
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction

if TYPE_CHECKING:
    from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part

SCHEMA_VERSION = 1

CLEARLY = 3.0
"""Standard errors. At two, a table of hundreds of cells would too often lose a rule that is no worse than the best."""

LEAST_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice alone.

    Args:
        losses: of each sample that it has seen.
        survived: whether it has seen all of them; else it was clearly worse than another rule of its cell.
    """

    choice: Choice
    losses: "Losses"
    survived: bool

    @property
    def kl(self) -> Estimate:
        """KL to the original in nats, mean over the samples seen."""
        return Estimate.of(self.losses.kl)


@dataclass(frozen=True, kw_only=True)
class SensitivityTable:
    """Rows of one run, or of a share of it.

    Args:
        run: what the rows depend on (model, samples, seed, versions, settings), JSON by name; only tables of equal runs
            are joined.
        rows: at most one for each choice, in the order of `row_order`.
    """

    run: Mapping[str, Any]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, run: Mapping[str, Any], rows: Sequence[Row], *, source: str = "sensitivity") -> "SensitivityTable":
        """Rows in any order; equal ones count once. Raises InputError where rows of one choice differ."""
        by_choice: dict[Choice, Row] = {}
        for row in rows:
            if by_choice.setdefault(row.choice, row) != row:
                raise InputError(
                    f"{source}: two different measurements of {row.choice.name}; they are not of the same run, or the "
                    "machines compute differently: measure one of them again"
                )
        # As it comes back from a file, where tuples are lists.
        return cls(run=plain(dict(run)), rows=tuple(sorted(by_choice.values(), key=row_order)))

    @classmethod
    def joined(cls, tables: Sequence["SensitivityTable"], *, source: str = "sensitivity") -> "SensitivityTable":
        """All rows of at least one table. In whatever order and grouping, and however often one is given, the outcome
        is the same.

        Raises InputError where the tables are of different runs, naming what differs.
        """
        assert tables, "nothing to join"
        first = tables[0].run
        for table in tables[1:]:
            differing = sorted(
                name for name in {*first, *table.run} if first.get(name, _NOTHING) != table.run.get(name, _NOTHING)
            )
            if differing:
                raise InputError(
                    f"{source}: the tables are of different runs, they differ in {', '.join(differing)}; join only "
                    "those that one calibration has made"
                )
        return cls.of(first, [row for table in tables for row in table.rows], source=source)

    def row(self, choice: Choice) -> Row | None:
        """The row of a choice; None where it was not measured."""
        return self._by_choice.get(choice)

    def estimate(self, choice: Choice) -> Estimate | None:
        """KL of a choice alone; None where it was not measured."""
        row = self.row(choice)
        return None if row is None else row.kl

    def survivors(self) -> tuple[Row, ...]:
        """Rows that have seen all samples."""
        return tuple(row for row in self.rows if row.survived)

    def to_json(self) -> str:
        """Equal tables are equal bytes."""
        rows = [
            {
                "choice": dataclasses.asdict(row.choice),
                "losses": row.losses.to_json(),
                "survived": row.survived,
            }
            for row in self.rows
        ]
        data = {"schema_version": SCHEMA_VERSION, "run": self.run, "rows": rows}
        return to_json(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "sensitivity") -> "SensitivityTable":
        """Parse what `to_json` wrote. Raises InputError that names `source`."""
        try:
            data = from_json(text)
            if data["schema_version"] != SCHEMA_VERSION:
                raise InputError(
                    f"{source}: schema_version {data['schema_version']!r} is not known here (this vitcop reads "
                    f"{SCHEMA_VERSION})"
                )
            if not isinstance(data["run"], dict):
                raise TypeError("run is no object")
            return cls.of(data["run"], [_row(item) for item in data["rows"]], source=source)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{source}: not a sensitivity table ({type(error).__name__}: {error})") from None

    @cached_property
    def _by_choice(self) -> dict[Choice, Row]:
        return {row.choice: row for row in self.rows}


_NOTHING = object()


def row_order(row: Row) -> tuple[int, int, str]:
    """By layer, falling keep count and name of the rule."""
    return row.choice.layer, -row.choice.keep, row.choice.name


def measure_cell(
    evaluator: "Evaluator",
    choices: Sequence[Choice],
    parts: "Sequence[Part]",
    *,
    num_visual: int,
    saliency: str,
    centers: Fraction,
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure all choices of one cell, cutting those that are clearly worse (see above).

    Args:
        choices: different ones of one layer and keep count.
        parts: of the calibration set, in the order in which they are seen.
        num_visual, saliency, centers: as in `schedule_of`.
        advance: called after each measurement.

    Returns one row for each choice, in the order of `row_order`.
    """
    assert len({(choice.layer, choice.keep) for choice in choices}) == 1, "choices of one layer and keep count"
    assert parts, "no samples"
    from vitcop.calibrate.evaluate.evaluation import Losses

    num_layers = evaluator.family.num_layers
    alive, found = sorted(set(choices), key=lambda choice: choice.name), {}
    images: list[Hashable] = []
    for last, part in enumerate(parts, start=1 - len(parts)):
        images += [_image(sample) for members, _ in part.prepared for sample in members]
        for choice in alive:
            schedule = schedule_of(
                [choice], num_layers=num_layers, num_visual=num_visual, saliency=saliency, centers=centers
            )
            measured = evaluator.measure(schedule, part)
            found[choice] = Losses.joined([found[choice], measured]) if choice in found else measured
            advance()
        if last:
            alive = still_open({choice: found[choice].kl for choice in alive}, images)
    rows = [Row(choice=choice, losses=losses, survived=choice in alive) for choice, losses in found.items()]
    return sorted(rows, key=row_order)


def still_open(kl: Mapping[Choice, Sequence[float]], images: Sequence[Hashable]) -> list[Choice]:
    """Those that are not clearly worse than the best, in the given order.

    Args:
        kl: of each choice, over the same samples.
        images: of each sample, what it shares with others that are not independent of it.
    """
    best = min(kl, key=lambda choice: (sum(kl[choice]) / len(images), choice.name))
    return [choice for choice in kl if choice == best or not _clearly_above(kl[choice], kl[best], images)]


def _clearly_above(kl: Sequence[float], best: Sequence[float], images: Sequence[Hashable]) -> bool:
    if not all(map(math.isfinite, kl)):
        return all(map(math.isfinite, best))
    differences = [ours - theirs for ours, theirs in zip(kl, best, strict=True)]
    mean = math.fsum(differences) / len(differences)
    return len(set(images)) >= LEAST_IMAGES and mean > CLEARLY * standard_error(differences, images)


def _image(sample: Any) -> Hashable:
    """What a sample shares with others of its pictures, by their bytes; a prompt of text alone shares nothing."""
    return sample.picture_digests or sample.id


def _row(data: dict[str, Any]) -> Row:
    from vitcop.calibrate.evaluate.evaluation import LOSSES, Losses

    losses = Losses.from_json(data["losses"])
    if losses is None:
        raise ValueError("a row without losses")
    if len({len(getattr(losses, name)) for name in LOSSES}) != 1 or type(data["survived"]) is not bool:
        raise ValueError("a row of columns of different lengths, or without 'survived'")
    choice = data["choice"]
    if not (
        type(choice["layer"]) is type(choice["keep"]) is int and choice["layer"] >= AT_INPUT and choice["keep"] > 0
    ):
        raise ValueError(f"no choice: layer {choice['layer']!r}, keep {choice['keep']!r}")
    return Row(
        choice=Choice(layer=choice["layer"], keep=choice["keep"], rule=Rule(**choice["rule"])),
        losses=losses,
        survived=data["survived"],
    )
