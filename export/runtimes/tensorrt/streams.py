"""The one CUDA stream of a runner: where work is put, how long it took, and work captured to be replayed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from vitcop.plugins.errors import InputError


class Stream(Protocol):
    """What a runner needs of a stream."""

    device: torch.device
    handle: int

    def active(self) -> AbstractContextManager[Any]:
        """Torch's operations inside of it go to this stream."""
        ...

    def mark(self) -> Any:
        """A point in the work."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Time between two marks that the work has passed."""
        ...

    def wait(self) -> None:
        """Until all work is done."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream, without running it; the result runs it."""
        ...


class CudaStream:
    """A stream of the current GPU."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self.device)
        self.handle = self._stream.cuda_stream

    def active(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return begin.elapsed_time(end) / 1000

    def wait(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Raises InputError where something in the work cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Only calls of this thread count: others (a profiler, a data loader) may go on.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the decode step cannot be captured ({reason}); use --option cuda_graph=false") from None
        return graph.replay
