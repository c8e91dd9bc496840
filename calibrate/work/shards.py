"""Shares of a run for machines that do not know of each other, and the joining of what they found. No torch.

Each machine performs the units of its shard and writes a partial table; joined, the tables hold what one machine would
have found. Joining is associative, commutative and idempotent, so any order, and any table twice, gives the same.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.store import write_atomically
from vitcop.calibrate.core.strict_json import naming, read, read_text, to_json, versioned
from vitcop.plugins.errors import InputError

SCHEMA_VERSION = 1
_NOTHING = "nothing"


@dataclass(frozen=True, order=True)
class Shard:
    """Shard `index` of `count`, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"shard {self.index}/{self.count}: expected i/n with i from 1 to n")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "i/n". Raises InputError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isascii() and index.isdecimal() and count.isascii() and count.isdecimal()) or len(text) > 20:
            raise InputError(f"shard {text!r}: expected i/n with i from 1 to n, such as 1/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def file_name(self) -> str:
        """Of its partial table."""
        return f"partial-{self.index}-of-{self.count}.json"

    def share(self, keys: Collection[str]) -> frozenset[str]:
        """Its share of the keys of all units: each `count`-th of the sorted ones, so that shares differ by one at most
        and each key is in exactly one."""
        return frozenset(sorted(set(keys))[self.index - 1 :: self.count])


@dataclass(frozen=True, kw_only=True)
class PartialTable:
    """What some shards of one run found.

    Args:
        run: readable facts of all that the results depend on (model, samples, seed, versions, settings); JSON. Tables
            of different facts are never joined.
        units: keys of all units of the run, sorted.
        shards: those that are in it.
        results: of units, by key; JSON.
        source: where it was read from, for messages.
    """

    run: dict[str, Any]
    units: tuple[str, ...]
    shards: tuple[Shard, ...]
    results: dict[str, Any]
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if list(self.units) != sorted(set(self.units)) or not self.shards:
            raise InputError("not a partial table: its units or shards are not in order")
        if self.results.keys() - set(self.units):
            raise InputError("not a partial table: it has results of units that are not of its run")

    def joined(self, other: "PartialTable") -> "PartialTable":
        """Both together. Raises InputError where they are of different runs, or differ in a result."""
        names = f"{self.source or 'one table'} and {other.source or 'another'}"
        # Facts first: where one differs the units differ too, and the fact says why.
        facts = _differences(self.run, other.run), _differences({"units": self.units}, {"units": other.units})
        for name, mine, theirs in chain(*facts):
            raise InputError(
                f"{names} are of different runs: {name} is {mine} in the one and {theirs} in the other; merge partial "
                "tables of one run only"
            )
        for key in sorted(self.results.keys() & other.results.keys()):
            if to_json(self.results[key]) != to_json(other.results[key]):
                raise InputError(
                    f"{names} have different results for unit {key}; machines that share a run must compute alike (one "
                    "kind of processor, one release of each package)"
                )
        results = {**self.results, **other.results}
        return PartialTable(
            run=self.run,
            units=self.units,
            shards=tuple(sorted({*self.shards, *other.shards})),
            results={key: results[key] for key in sorted(results)},
            source=min(self.source, other.source),
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of units without a result."""
        return tuple(key for key in self.units if key not in self.results)

    @property
    def missing_shards(self) -> tuple[Shard, ...]:
        """The shards still to be run, where shards of one count were joined and of the largest count else."""
        count = max(shard.count for shard in self.shards)
        missing = frozenset(self.missing)
        return tuple(shard for i in range(1, count + 1) if (shard := Shard(i, count)).share(self.units) & missing)

    def check_complete(self) -> None:
        """Raises InputError that names the missing shards."""
        if self.missing:
            raise InputError(
                f"{len(self.missing)} of {len(self.units)} units have no result: shards "
                f"{', '.join(map(str, self.missing_shards))} are missing; run them and merge again"
            )

    def to_json(self) -> str:
        """Sorted keys: equal tables are equal bytes."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "units": list(self.units),
            "shards": list(map(str, self.shards)),
            "results": self.results,
        }
        return to_json(data, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_atomically(path, self.to_json().encode("utf-8"))

    @classmethod
    def from_json(cls, text: str, *, source: str = "partial table") -> "PartialTable":
        """What `to_json` wrote. Raises InputError that names `source`."""
        data = versioned(text, source, SCHEMA_VERSION)
        del data["schema_version"]
        with naming(source):
            shards = [Shard.parse(shard) for shard in read(list[str], data.get("shards"), "shards")]
            return read(cls, {**data, "shards": shards, "source": source})

    @classmethod
    def load(cls, path: Path) -> "PartialTable":
        """Read a partial table. Raises InputError where the file cannot be read or holds none."""
        return cls.from_json(read_text(path), source=str(path))


def merge(tables: Iterable[PartialTable]) -> PartialTable:
    """All tables together. Raises InputError where there is none, or where they do not go together."""
    tables = list(tables)
    if not tables:
        raise InputError("no partial tables to merge")
    return reduce(PartialTable.joined, tables)


def partial_files(places: Iterable[str | Path]) -> list[Path]:
    """Partial tables: files as they are given, of folders those that a shard wrote. Raises InputError where a folder
    has none."""
    files: list[Path] = []
    for place in map(Path, places):
        found = sorted(place.glob("partial-*-of-*.json")) if place.is_dir() else [place]
        if not found:
            raise InputError(f"{place}: no partial tables (partial-i-of-n.json) in this folder")
        files += found
    return files


def _differences(mine: Any, theirs: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, value, other value) of facts that differ, by name."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(mine.get(key, _NOTHING), theirs.get(key, _NOTHING), inner)
    elif to_json(mine) != to_json(theirs):
        yield name, _short(mine), _short(theirs)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = value if value == _NOTHING else to_json(value)
    return text if len(text) <= 60 else text[:57] + "…"
