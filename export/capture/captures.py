"""What several exports of one model share: its skeleton, and each graph as it was captured."""

from collections.abc import Callable, Hashable

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.export.capture.skeleton import Skeleton, load_skeleton
from vitcop.export.capture.token_graph import TokenGraph


class Captures:
    """Captures kept for further exports of the same model; each export edits a copy of its own."""

    def __init__(self) -> None:
        self._skeletons: dict[str, Skeleton] = {}
        self._graphs: dict[Hashable, tuple[TokenGraph, float]] = {}

    def skeleton(self, checkpoint: Checkpoint) -> Skeleton:
        """The model without its weights."""
        key = f"{checkpoint.path.resolve()} {checkpoint.fingerprint()}"
        if key not in self._skeletons:
            # Captures hold tensors of their skeleton: those of another model are of no use with this one.
            self._skeletons, self._graphs = {key: load_skeleton(checkpoint)}, {}
        return self._skeletons[key]

    def take(self, key: Hashable, capture: Callable[[], tuple[TokenGraph, float]]) -> tuple[TokenGraph, float]:
        """A copy of the graph that `capture` made under this key, and the number that came with it."""
        if key not in self._graphs:
            self._graphs[key] = capture()
        graph, number = self._graphs[key]
        return graph.copied(), number
