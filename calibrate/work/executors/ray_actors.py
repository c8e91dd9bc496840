"""Ray actors, on this machine or on many: `pip install vitcop[ray]`."""

import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from typing import Any, Self

from vitcop.calibrate.core.strict_json import to_json
from vitcop.calibrate.work.executors.base import Factory, Json
from vitcop.calibrate.work.executors.outcomes import RETRIES, Answering, given_up, result_of
from vitcop.plugins.errors import InputError, MissingError

_LOCAL_STORE_BYTES = 100 << 20
"""Of the object store of a local Ray; only short texts cross."""

_REACH_SECONDS = 10.0
_ATTEMPTS = 3


class Ray(AbstractContextManager["Ray"]):
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
        waiting, running = deque(range(len(units))), dict[Any, tuple[Any, int]]()

        def hand_out() -> None:
            while waiting and len(running) < self._num_workers:
                actor, unit = self._idle.pop() if self._idle else self._new_actor(), waiting.popleft()
                running[actor.perform.remote(to_json(units[unit]))] = actor, unit

        try:
            hand_out()
            while running:
                (reference,), _ = self._ray.wait(list(running), num_returns=1)
                try:
                    outcome = self._ray.get(reference)
                except errors.RayTaskError:
                    raise
                except errors.RayError as error:
                    unit = running[reference][1]
                    raise given_up(units[unit], self._retries + 1, "Ray actors", _first_line(error)) from None
                actor, unit = running.pop(reference)
                self._idle.append(actor)
                hand_out()
                yield unit, result_of(outcome)
        finally:
            for actor, _ in running.values():
                self._ray.kill(actor)

    def _new_actor(self) -> Any:
        # Ray itself starts it again after its death, however often, and gives it its unit again, so many times.
        options = {"num_cpus": 1, "num_gpus": int(self._gpus), "max_restarts": -1, "max_task_retries": self._retries}
        return self._ray.remote(**options)(Answering).remote(self._factory)

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

    def __exit__(self, *_: object) -> None:
        if self._ray.is_initialized():
            for actor in self._idle:
                self._ray.kill(actor)
        self._idle = []
        self._disconnect()
        self._redirection.close()


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
                    raise MissingError(f"Ray at {address} cannot be used ({_first_line(error)})") from None


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


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
