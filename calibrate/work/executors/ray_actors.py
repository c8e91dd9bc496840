"""Ray actors, on this machine or on many: `pip install vitcop[ray]`."""

import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import TracebackType
from typing import Any, Self

from vitcop.calibrate.core.strict_json import from_json, to_json
from vitcop.calibrate.work.executors.base import Factory, Json, Performer, name_of
from vitcop.calibrate.work.executors.outcomes import failed, performed, result_of
from vitcop.calibrate.work.executors.processes import RETRIES
from vitcop.plugins.errors import InputError, MissingError

_LOCAL_STORE_BYTES = 100 << 20
"""Of the object store of a local Ray; only short texts cross."""

_REACH_SECONDS = 10.0
_ATTEMPTS = 3


class Ray:
    """Units go to actors, each of which keeps its performer. An actor that dies is replaced and its unit tried again.

    Without an address a Ray that this process is connected to is used, else the one of $RAY_ADDRESS, else a local one
    is started and stopped again.

    Args:
        num_workers: actors; where None one for each GPU of the cluster with `gpus`, else one for each CPU.
        address: of a running cluster, such as "auto" or "10.0.0.1:6379"; "local" always starts a new one.
        gpus: whether each actor needs a GPU of its own.
        retries: of one unit after the death of its actor.

    Raises MissingError where ray, the cluster, or a GPU that is asked for is missing.
    """

    def __init__(
        self,
        factory: Factory,
        num_workers: int | None = None,
        *,
        address: str | None = None,
        gpus: bool = False,
        retries: int = RETRIES,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise InputError(f"workers: expected at least 1, found {num_workers}")
        self._ray = _import_ray()
        self._factory, self._retries, self._gpus = factory.to_text(), retries, gpus
        self._actors: dict[Any, Any] = {}
        """Actors by the reference of the outcome that they work on."""
        self._idle: list[Any] = []
        self._redirection = ExitStack()
        self._owned = not self._ray.is_initialized()
        if self._owned:
            _connect(self._ray, address, num_workers)
        try:
            self._num_workers = self._fitting(num_workers)
        except BaseException:
            self._disconnect()
            raise

    def map(self, units: Sequence[Json]) -> Iterator[tuple[int, Json]]:
        """As in `Executor`."""
        errors = self._ray.exceptions
        waiting, deaths = deque(range(len(units))), Counter[int]()
        running: dict[Any, int] = {}

        def hand_out() -> None:
            while waiting and len(running) < self._num_workers:
                unit = waiting.popleft()
                actor = self._idle.pop() if self._idle else self._new_actor()
                reference = actor.perform.remote(to_json(units[unit]))
                running[reference], self._actors[reference] = unit, actor

        try:
            hand_out()
            while running:
                (reference,), _ = self._ray.wait(list(running), num_returns=1)
                unit, actor = running.pop(reference), self._actors.pop(reference)
                try:
                    outcome = self._ray.get(reference)
                except errors.RayTaskError:
                    raise
                except errors.RayError as error:
                    deaths[unit] += 1
                    if deaths[unit] > self._retries:
                        raise _given_up(units[unit], deaths[unit], error) from None
                    waiting.appendleft(unit)
                    hand_out()
                    continue
                self._idle.append(actor)
                hand_out()
                yield unit, result_of(outcome)
        finally:
            for reference in running:
                self._ray.kill(self._actors.pop(reference))

    def _new_actor(self) -> Any:
        kind = self._ray.remote(num_cpus=1, num_gpus=int(self._gpus), max_restarts=0)(Actor)
        return kind.remote(self._factory)

    def _fitting(self, num_workers: int | None) -> int:
        """How many actors to use, given what the cluster has."""
        resources = self._ray.cluster_resources()
        have = int(resources.get("GPU" if self._gpus else "CPU", 0))
        if not have:
            raise MissingError(f"the Ray cluster has no {'GPU' if self._gpus else 'CPU'}")
        return min(num_workers or have, have)

    def _disconnect(self) -> None:
        if self._owned and self._ray.is_initialized():
            self._ray.shutdown()

    def __enter__(self) -> Self:
        # Ray tells of dead actors on standard output, which belongs to results.
        self._redirection.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray.is_initialized():
            for actor in self._idle:
                self._ray.kill(actor)
        self._idle = []
        self._disconnect()
        self._redirection.close()


class Actor:
    """Holds a performer; texts of JSON come and go, since Ray would pickle anything else."""

    def __init__(self, factory: str) -> None:
        self._factory = factory
        self._performer: Performer | None = None

    def perform(self, unit: str) -> str:
        """The outcome of a unit."""
        if self._performer is None:
            try:
                self._performer = Factory.from_text(self._factory).make()
            except Exception as error:  # whatever it is, the other side must hear of it
                return failed(error)
        return performed(self._performer, from_json(unit))


def _import_ray() -> Any:
    # Read when ray is imported: it reports usage over the network unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingError("--executor ray needs Ray: pip install 'vitcop[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None, num_workers: int | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "error"}
    if address == "local":
        settings |= {
            "num_cpus": max(num_workers or 1, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": _LOCAL_STORE_BYTES,
        }
    else:
        _check_reachable(address)
    with _signals_kept(), _search_path_passed_on():
        # A local Ray gives up after 30 seconds, which may be too few on a machine with much other work.
        for attempts_left in reversed(range(_ATTEMPTS if address == "local" else 1)):
            try:
                ray.init(address=address, **settings)
                return
            except Exception as error:  # of many types, Exception itself among them
                ray.shutdown()
                if not attempts_left:
                    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                    raise MissingError(f"Ray at {address} cannot be used ({reason})") from None


def _check_reachable(address: str) -> None:
    """Ray itself would try for many minutes. Raises MissingError where nobody answers at "host:port"."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise MissingError(f"Ray at {address} cannot be used ({error}); is the cluster running?") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own for SIGTERM; ours comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _search_path_passed_on() -> Iterator[None]:
    """Processes that are started inside find the modules that this one found."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _given_up(unit: Json, deaths: int, error: Exception) -> MissingError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return MissingError(
        f"unit {name_of(unit)}: {deaths} Ray actors died at it (the last: {reason}); if memory is short, use fewer "
        "workers or a smaller batch_size"
    )
