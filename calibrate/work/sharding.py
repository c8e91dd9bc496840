"""What a machine does for its shard, and what the one that merges does with the partial tables. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitcop.calibrate.core.progress import Progress
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.work.executors.base import Executor, Json
from vitcop.calibrate.work.performing import keep_all, perform_all
from vitcop.calibrate.work.shards import PartialTable, Shard


def perform_shard(
    executor: Executor,
    units: Sequence[Json],
    shard: Shard,
    *,
    run: Mapping[str, Any],
    store: Store,
    progress: Progress | None = None,
    title: str = "units of this shard",
) -> PartialTable:
    """Perform this shard's share of the units; what an earlier attempt finished is taken from the store.

    Args:
        units: all units of the run, the same on all machines.
        run: facts of it, as in `PartialTable`.
    """
    keys = tuple(sorted({item["key"] for item in units}))
    share = shard.share(keys)
    mine = [item for item in units if item["key"] in share]
    found = perform_all(executor, mine, store=store, progress=progress, title=title)
    return PartialTable(
        run=dict(run),
        units=keys,
        shards=(shard,),
        results={item["key"]: result for item, result in zip(mine, found, strict=True)},
    )


def take_in(table: PartialTable, units: Sequence[Json], *, run: Mapping[str, Any], store: Store) -> None:
    """Put the results of merged tables where `perform_all` finds them.

    Args:
        units, run: those of the run that takes them in.

    Raises InputError where the tables are of another run, naming the first fact that differs, or where shards are
    missing.
    """
    keys = tuple(sorted({item["key"] for item in units}))
    here = PartialTable(run=dict(run), units=keys, shards=table.shards, results={}, source="this run")
    here.joined(table)
    table.check_complete()
    keep_all(store, table.results)
