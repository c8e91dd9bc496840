"""What a pass is: an edit of one graph that either holds its promise or raises with its own name in the message."""

from abc import ABC, abstractmethod

from vitcop.export.capture.token_graph import TokenGraph
from vitcop.plugins.errors import InputError


class PassError(InputError):
    """The model's captured graph is not of the form that a pass needs; the message names the pass and the place."""


class Pass(ABC):
    """One edit of a graph, in place."""

    @property
    def name(self) -> str:
        """The name in error messages."""
        return type(self).__name__

    @abstractmethod
    def call(self, graph: TokenGraph) -> None:
        """Edit `graph`. Raises PassError where the graph is not of the expected form."""

    def __call__(self, graph: TokenGraph) -> TokenGraph:
        self.call(graph)
        graph.module.graph.lint()
        graph.module.recompile()
        return graph

    def refuse(self, where: str, expected: str, found: str) -> PassError:
        """The error of a pass that cannot go on."""
        return PassError(f"{self.name} at {where}: expected {expected}, found {found}")


class Sequence(Pass):
    """Passes one after the other, and then one trace that checks every shape anew."""

    def __init__(self, *passes: Pass) -> None:
        self.passes = passes

    def call(self, graph: TokenGraph) -> None:
        for done, each in enumerate(self.passes):
            try:
                each(graph)
            except PassError as error:
                before = ", ".join(p.name for p in self.passes[:done]) or "none"
                raise PassError(f"{error} (passes already run: {before})") from error
        if self.passes:
            graph.refresh()
