"""How long work tells of itself; the pipeline draws bars from it."""

from typing import Protocol


class Progress(Protocol):
    """A sequence of titled phases, each of `total` steps."""

    def start(self, total: int, title: str) -> None:
        """A phase of `total` steps begins; the one before it is over."""
        ...

    def advance(self) -> None:
        """One step of the present phase is done."""
        ...


class NoProgress:
    """Says nothing."""

    def start(self, total: int, title: str) -> None:
        pass

    def advance(self) -> None:
        pass
