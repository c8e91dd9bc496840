"""Units of work and their results on disk: what has finished is not performed again, whoever performed it. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitcop.calibrate.core.digests import key_of
from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.strict_json import plain
from vitcop.calibrate.work.executors.base import Executor, Json, Performer


def unit(kind: str, base: Any, **content: Any) -> Json:
    """A unit: its kind, its content, and a key of both and of `base`, all else that its result depends on; JSON."""
    content = plain(content)
    return {"kind": kind, **content, "key": key_of(base, kind, content)}


def stored_as(key: str) -> str:
    """Name of a unit's result in the store."""
    return f"unit-{key}"


class StoredPerformer:
    """Takes results that the store has from there, and keeps those of another performer in it.

    A worker that has one loses nothing that it finished, even where nobody is left to hear of it.
    """

    def __init__(self, performer: Performer, store: Store) -> None:
        self.performer, self.store = performer, store

    def perform(self, unit: Json) -> Json:
        held = self.store.get(stored_as(unit["key"]))
        if isinstance(held, dict):
            return held
        result = self.performer.perform(unit)
        self.store.put(stored_as(unit["key"]), result)
        return result


def perform_all(
    executor: Executor, units: Sequence[Json], *, store: Store, progress: Progress | None = None, title: str = "units"
) -> list[Json]:
    """Results of units, in their order. Those that the store has are not performed; each other one is kept there as
    soon as it is known. A unit that is given twice is performed once.

    Raises what `Executor.map` raises; what had finished by then is in the store.
    """
    progress = progress or NoProgress()
    by_key = {item["key"]: item for item in units}
    results: dict[str, Json] = {}
    for key in by_key:
        held = store.get(stored_as(key))
        if isinstance(held, dict):
            results[key] = held
    progress.start(len(by_key), title)
    for _ in results:
        progress.advance()
    missing = [item for key, item in by_key.items() if key not in results]
    for place, result in executor.map(missing):
        key = missing[place]["key"]
        # The worker has kept it already, unless it has another disk.
        if store.get(stored_as(key)) is None:
            store.put(stored_as(key), result)
        results[key] = result
        progress.advance()
    return [results[item["key"]] for item in units]


def keep_all(store: Store, results: Mapping[str, Json]) -> None:
    """Put results by unit key, such as those of merged shards, where `perform_all` finds them."""
    for key, result in results.items():
        store.put(stored_as(key), result)
