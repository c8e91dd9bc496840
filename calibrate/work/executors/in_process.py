"""The default executor: one unit after another, in this process."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

from vitcop.calibrate.core.strict_json import plain
from vitcop.calibrate.work.executors.base import Factory, Json, Performer


class InProcess(AbstractContextManager["InProcess"]):
    """Makes its performer at the first unit and keeps it.

    Args:
        source: the factory, or a performer that is there already.
    """

    def __init__(self, source: Factory | Performer) -> None:
        self._source = source

    @cached_property
    def performer(self) -> Performer:
        """The performer, made where it was not."""
        return self._source.make() if isinstance(self._source, Factory) else self._source

    def map(self, units: Sequence[Json]) -> Iterator[tuple[int, Json]]:
        """In the order of `units`."""
        for i, unit in enumerate(units):
            yield i, plain(self.performer.perform(plain(unit)))

    def __exit__(self, *_: object) -> None:
        pass
