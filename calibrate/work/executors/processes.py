"""Worker processes on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from vitcop.calibrate.core.strict_json import to_json
from vitcop.calibrate.work.executors.base import Factory, Json
from vitcop.calibrate.work.executors.outcomes import RETRIES, given_up, result_of
from vitcop.plugins.errors import InputError

_WORKER = "vitcop.calibrate.work.executors.worker"
_PATIENCE_SECONDS = 10.0
"""How long workers have to end by themselves, longer than they give their own unit."""


class Processes(AbstractContextManager["Processes"]):
    """Units go to `num_workers` processes, each of which keeps its performer from unit to unit.

    A worker that dies is replaced and its unit tried again. Workers end with this process, however it ends. The
    standard library's own pool of processes keeps less than that: docs/decisions.md, 2026-11-29.

    Args:
        environments: environment variables of worker i are `environments[i % len(environments)]` on top of ours;
            such as {"CUDA_VISIBLE_DEVICES": "1"}.
    """

    def __init__(self, factory: Factory, num_workers: int, *, environments: Sequence[Mapping[str, str]] = ()) -> None:
        if num_workers < 1:
            raise InputError(f"workers: expected at least 1, found {num_workers}")
        environments = environments or [{}]
        self._workers = [_Worker(factory, environments[i % len(environments)]) for i in range(num_workers)]
        self._running = False

    def map(self, units: Sequence[Json]) -> Iterator[tuple[int, Json]]:
        """As in `Executor`. One at a time: RuntimeError where another one has not ended."""
        if self._running:
            raise RuntimeError("this executor is busy with other units")
        self._running = True
        waiting, deaths = deque(range(len(units))), Counter[int]()
        # Taken from its end, so worker 0 first: of those that have run already none is passed over.
        idle, busy = self._workers[::-1], dict[Any, tuple[_Worker, int]]()

        def hand_out() -> None:
            while waiting and idle:
                worker, unit = idle.pop(), waiting.popleft()
                busy[worker.give(units[unit])] = worker, unit

        try:
            hand_out()
            while busy:
                for connection in wait(list(busy)):
                    worker, unit = busy[connection]
                    outcome = worker.answer()
                    if outcome is None:
                        _end([worker])
                        deaths[unit] += 1
                        if deaths[unit] > RETRIES:
                            raise given_up(units[unit], deaths[unit], "worker processes", worker.how_it_ended())
                        waiting.appendleft(unit)
                    del busy[connection]
                    idle.append(worker)
                    # Before its caller deals with the result, so that no worker waits for that.
                    hand_out()
                    if outcome is not None:
                        yield unit, result_of(outcome)
        finally:
            self._running = False
            _end(worker for worker in self._workers if worker not in idle)

    def __exit__(self, *_: object) -> None:
        _end(self._workers)


class _Worker:
    """A process, started when there is a unit for it, and again where it has ended."""

    def __init__(self, factory: Factory, environment: Mapping[str, str]) -> None:
        self._factory, self._environment = factory.to_text(), environment
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Any = None

    def give(self, unit: Json) -> Any:
        """Let it work on a unit. Returns the connection at which it will answer."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        self._send(to_json(unit))
        return self.connection

    def _start(self) -> None:
        # Our own search path, so that the worker finds what we found; -P: and nothing in the present folder besides.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.connection, other = Pipe()
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER],
                stdin=other.fileno(),
                # Standard error: what libraries print does not come between the results of a command.
                stdout=2,
                env={**os.environ, "PYTHONPATH": path, **self._environment},
                # A group of its own: Ctrl-C in a terminal is for this process, which then ends its workers.
                process_group=0,
            )
        self._send(self._factory)

    def _send(self, text: str) -> None:
        # Bytes, since a connection would pickle anything else. Where the worker has died, `answer` will see it.
        with suppress(OSError):
            self.connection.send_bytes(text.encode("utf-8"))

    def answer(self) -> str | None:
        """The outcome of its unit, which is waited for; None where it has died."""
        try:
            return self.connection.recv_bytes().decode("utf-8")
        except (EOFError, OSError):
            return None

    def how_it_ended(self) -> str:
        """In words."""
        assert self.process is not None and self.process.returncode is not None, "it has not ended"
        status = self.process.returncode
        return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _end(workers: Iterable[_Worker]) -> None:
    """Stop workers, all at once: where the connection ends, they do."""
    started = [(worker, worker.process) for worker in workers if worker.process is not None]
    for worker, _ in started:
        worker.connection.close()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for _, process in started:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
