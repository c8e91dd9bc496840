"""Worker processes on this machine."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from vitcop.calibrate.core.strict_json import to_json
from vitcop.calibrate.work.executors.base import Factory, Json, name_of
from vitcop.calibrate.work.executors.outcomes import result_of
from vitcop.plugins.errors import InputError, MissingError

_WORKER = "vitcop.calibrate.work.executors.worker"
_PATIENCE_SECONDS = 10.0
"""How long workers have to end by themselves, longer than they give their own unit."""

RETRIES = 2
"""How often a unit is tried again after its worker died."""


class Processes:
    """Units go to `num_workers` processes, each of which keeps its performer from unit to unit.

    A worker that dies is replaced and its unit tried again. Workers end with this process, however it ends.

    Args:
        retries: of one unit after the death of its worker.
        environments: environment variables of worker i are `environments[i % len(environments)]` on top of ours;
            such as {"CUDA_VISIBLE_DEVICES": "1"}.
    """

    def __init__(
        self,
        factory: Factory,
        num_workers: int,
        *,
        retries: int = RETRIES,
        environments: Sequence[Mapping[str, str]] = (),
    ) -> None:
        if num_workers < 1:
            raise InputError(f"workers: expected at least 1, found {num_workers}")
        self._factory, self._retries = factory.to_text(), retries
        self._environments = [dict(item) for item in environments] or [{}]
        self._workers: list[_Worker | None] = [None] * num_workers
        self._running = False

    def map(self, units: Sequence[Json]) -> Iterator[tuple[int, Json]]:
        """As in `Executor`. One at a time: RuntimeError where another one has not ended."""
        if self._running:
            raise RuntimeError("this executor is busy with other units")
        self._running = True
        waiting, deaths = deque(range(len(units))), Counter[int]()
        try:
            self._hand_out(waiting, units)
            while busy := [worker for worker in self._workers if worker is not None and worker.unit is not None]:
                for worker in _ready(busy):
                    outcome, unit = worker.read(), worker.unit
                    assert unit is not None, "a busy worker has a unit"
                    if outcome is None and not worker.ended:
                        continue
                    worker.unit = None
                    if outcome is None:
                        how = _end([worker])
                        deaths[unit] += 1
                        if deaths[unit] > self._retries:
                            raise _given_up(units[unit], deaths[unit], how)
                        waiting.appendleft(unit)
                    # Before its caller deals with the result, so that no worker waits for that.
                    self._hand_out(waiting, units)
                    if outcome is not None:
                        yield unit, result_of(outcome)
        finally:
            self._running = False
            _end([worker for worker in self._workers if worker is not None and worker.unit is not None])

    def _hand_out(self, waiting: "deque[int]", units: Sequence[Json]) -> None:
        """Give each idle worker a unit; start workers as far as there are units for them."""
        for i, worker in enumerate(self._workers):
            if not waiting:
                return
            if worker is not None and worker.unit is not None:
                continue
            if worker is not None and worker.process.poll() is not None:
                _end([worker])
                worker = None
            if worker is None:
                worker = self._workers[i] = _Worker(self._factory, self._environments[i % len(self._environments)])
            unit = waiting.popleft()
            worker.give(unit, units[unit])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end([worker for worker in self._workers if worker is not None])
        self._workers = [None] * len(self._workers)


class _Worker:
    """One process and the unit that it works on."""

    def __init__(self, factory: str, environment: Mapping[str, str]) -> None:
        self.unit: int | None = None
        self.ended = False
        self._read = b""
        # Our own search path, so that the worker finds what we found; -P: and nothing in the present folder besides.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **environment},
            # A group of its own: Ctrl-C in a terminal is for this process, which then ends its workers.
            process_group=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self.input, self.output = self.process.stdin, self.process.stdout
        self._write(factory)

    def give(self, place: int, unit: Json) -> None:
        """Let it work on a unit."""
        self.unit = place
        self._write(to_json(unit))

    def read(self) -> str | None:
        """What it answered, or None where that is not all there yet; sets `ended` where nothing more will come."""
        block = os.read(self.output.fileno(), 1 << 16)
        self._read += block
        self.ended = not block
        if not self._read.endswith(b"\n"):
            return None
        line, self._read = self._read, b""
        return line.decode("utf-8")

    def release(self) -> None:
        """End its input, upon which it ends too."""
        self.ended = True
        with suppress(BrokenPipeError):
            self.input.close()

    def _write(self, text: str) -> None:
        # Where it has died, its output has ended too, which `read` will see.
        with suppress(BrokenPipeError):
            self.input.write(text.encode("utf-8") + b"\n")
            self.input.flush()


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those that have said something or ended; waits for the first."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.output, selectors.EVENT_READ, worker)
        return [key.data for key, _ in selector.select()]


def _end(workers: Sequence[_Worker]) -> str:
    """Stop workers, all at once; tells how the last one ended."""
    for worker in workers:
        worker.release()
    how, deadline = "", time.monotonic() + _PATIENCE_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.output.close()
        worker.unit = None
        status = worker.process.returncode
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
    return how


def _given_up(unit: Json, deaths: int, how: str) -> MissingError:
    return MissingError(
        f"unit {name_of(unit)}: {deaths} worker processes died at it (the last: {how}); if memory is short, use fewer "
        "workers or a smaller batch_size"
    )
