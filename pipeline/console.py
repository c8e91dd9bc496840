"""What a command says: results on stdout, progress and notes on stderr, bars only where someone watches."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vitcop.calibrate.core.progress import NoProgress, Progress

_PLAIN_SECONDS = 20.0


class Console:
    """The two streams of a command. `quiet` leaves out notes and progress."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def note(self, text: str) -> None:
        """A short line on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def result(self, data: Any, text: str) -> None:
        """The result on stdout: one JSON object with --json, else the text."""
        print(dump_json(data, indent=None) if self.as_json else text, flush=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar on a terminal, a line now and then elsewhere; what steps call as they go."""
        if self.quiet:
            yield NoProgress()
        elif sys.stderr.isatty():
            with _bar() as bar:
                yield bar
        else:
            yield PlainProgress()


def dump_json(data: Any, *, indent: int | None = 2) -> str:
    """JSON with sorted keys; numbers that JSON lacks (nan, inf) become null, so that any reader takes it."""
    return json.dumps(_finite(data), indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


class PlainProgress:
    """Progress as lines: one when a phase has lasted a while, and then one now and then."""

    def __init__(self) -> None:
        self._title, self._total, self._done, self._last = "", 0, 0, time.monotonic()

    def start(self, total: int, title: str) -> None:
        self._title, self._total, self._done = title, total, 0

    def advance(self) -> None:
        self._done += 1
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self._last = time.monotonic()
            print(f"{self._title}: {self._done}/{self._total}", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    class Bar:
        """One bar, which each phase takes over."""

        def start(self, total: int, title: str) -> None:
            bars.reset(task, total=total, description=title, visible=True)

        def advance(self) -> None:
            bars.advance(task)

    with RichProgress(*columns, console=RichConsole(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, visible=False)
        yield Bar()
