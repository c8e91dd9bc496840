"""What an executor is: it lets units of work be performed, somewhere, and hands back results as they come. No torch.

A unit is a JSON object with a "key", stable between runs; its result is JSON. What all units of a run share (a loaded
model) is held by a performer, which each worker makes once from a description in JSON. Nothing is ever unpickled.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Protocol

from vitcop.calibrate.core.strict_json import from_json, to_json

Json = dict[str, Any]


class Performer(Protocol):
    """Turns units into results."""

    def perform(self, unit: Json) -> Json:
        """The result of one unit; depends on the unit alone, never on those before it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Factory:
    """How a worker makes its performer: `function` of `module`, called with `arguments` by name.

    `arguments` are JSON; the module must be importable where the worker runs.
    """

    module: str
    function: str
    arguments: Json = field(default_factory=dict)

    def make(self) -> Performer:
        """A new performer."""
        return getattr(import_module(self.module), self.function)(**self.arguments)

    def to_text(self) -> str:
        """One line of JSON."""
        return to_json(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Factory":
        """What `to_text` wrote."""
        return cls(**from_json(text))


class Executor(AbstractContextManager["Executor"], Protocol):
    """Performs units; a context manager, whose workers end with it."""

    def map(self, units: Sequence[Json]) -> Iterator[tuple[int, Json]]:
        """(place in `units`, result) of each unit, in whatever order they finish.

        Raises what a unit raised (InputError, MissingError, … as such; WorkerError for anything unforeseen), and
        MissingError where workers keep dying at a unit. Units in flight are then given up.
        """
        ...


def name_of(unit: Json) -> str:
    """How messages call a unit: its key, and its kind where it has one."""
    return " ".join(str(unit[name]) for name in ("kind", "key") if name in unit) or "without a key"
