"""The boundary before a module: the values that cross it, and rebuilding behind it what follows from ids and masks.

At a drop point only a few values cross: the hidden states (which the drop gathers), and values that follow from
position ids, padding mask and shapes alone (rotary tables, the attention mask, the sequence length). The latter are
not gathered but computed again from the gathered ids, by cloning the few nodes between the inputs and the boundary.
"""

from dataclasses import dataclass

import torch
from torch import SymInt, Tensor, fx

_SIZE = torch.ops.aten.sym_size.int


def module_path(node: fx.Node) -> str:
    """Path of the module whose forward made this node ('' at the top)."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack.values()))[0] if stack else ""


def is_inside(node: fx.Node, path: str) -> bool:
    """True where the node was made by the module at `path` or one below it."""
    return (module_path(node) + ".").startswith(path + ".")


@dataclass
class Boundary:
    """A cut of the graph before node `first`.

    Args:
        first: the first node behind the cut.
        behind: all nodes behind it, the output node excluded.
        crossing: values made before the cut and used behind it, weights excluded, in graph order.
    """

    graph: fx.Graph
    first: fx.Node
    behind: set[fx.Node]
    crossing: list[fx.Node]

    @classmethod
    def before(cls, graph: fx.Graph, path: str) -> "Boundary | None":
        """The boundary before the module at `path`; None where no node of the graph belongs to it."""
        first = next((node for node in graph.nodes if is_inside(node, path)), None)
        return None if first is None else cls.at(graph, first)

    @classmethod
    def at(cls, graph: fx.Graph, first: fx.Node) -> "Boundary":
        """The boundary before a node."""
        nodes = list(graph.nodes)
        start = nodes.index(first)
        behind = {node for node in nodes[start:] if node.op != "output"}
        crossing = [
            node for node in nodes[:start] if node.op != "get_attr" and any(user in behind for user in node.users)
        ]
        return cls(graph, nodes[start], behind, crossing)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let everything behind the cut (not the graph's outputs) read `new` instead of `old`."""
        for user in list(old.users):
            if user in self.behind:
                user.replace_input_with(old, new)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and everything it is computed from."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        each = stack.pop()
        if each not in seen:
            seen.add(each)
            stack.extend(each.all_input_nodes)
    return seen


class Rebuild:
    """Clone what follows from some inputs alone, with those inputs replaced.

    Args:
        graph: the graph; clones are inserted at its current insertion point.
        replacements: input placeholder -> the node to read instead.
        lengths: size symbol (as text, "s53") -> the node that holds this length behind the cut.
    """

    def __init__(self, graph: fx.Graph, replacements: dict[fx.Node, fx.Node], lengths: dict[str, fx.Node]) -> None:
        self.graph, self.lengths = graph, lengths
        self.clones: dict[fx.Node, fx.Node] = dict(replacements)

    def applies_to(self, node: fx.Node) -> bool:
        """True where the value changes with the replacements, and follows from them, shapes and constants alone."""
        roots = [
            each
            for each in ancestors(node)
            if each.op in ("placeholder", "get_attr") and not self._only_sized(each, node)
        ]
        changed = any(each in self.clones for each in roots) or any(self._length(each) for each in ancestors(node))
        return changed and all(each in self.clones or not _is_weight(each) for each in roots)

    def clone(self, node: fx.Node) -> fx.Node:
        """The value behind the cut. Nodes that do not change are shared, not cloned."""
        if node not in self.clones:
            length = self._length(node)
            if length is not None:
                self.clones[node] = length
            elif node.op in ("placeholder", "get_attr"):
                self.clones[node] = node
            else:
                inputs = {each: self.clone(each) for each in node.all_input_nodes}
                unchanged = all(old is new for old, new in inputs.items())
                self.clones[node] = node if unchanged else self.graph.node_copy(node, lambda each: inputs[each])
        return self.clones[node]

    def _length(self, node: fx.Node) -> fx.Node | None:
        return self.lengths.get(str(node.meta["val"])) if node.target is _SIZE and "val" in node.meta else None

    def _only_sized(self, root: fx.Node, node: fx.Node) -> bool:
        """True where `node` reads nothing but shapes of `root`."""
        above = ancestors(node)
        readers = [user for user in root.users if user in above]
        return bool(readers) and all(reader.target is _SIZE for reader in readers)


def _is_weight(node: fx.Node) -> bool:
    """Learned parameters make a value more than a function of ids; buffers (rotary frequencies) do not."""
    if node.op != "get_attr":
        return node.op == "placeholder"
    owner, _, name = node.target.rpartition(".")
    module = node.graph.owning_module.get_submodule(owner)
    return name in module._parameters


def symbol(node: fx.Node, axis: int) -> str | None:
    """The size of one axis of a node's value as text if it is symbolic, else None."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() <= axis or not isinstance(value.shape[axis], SymInt):
        return None
    return str(value.shape[axis])


def size_symbols(node: fx.Node) -> set[str]:
    """Symbols that the sizes of a node's value are made of, derived ones (2·S) taken apart."""
    value = node.meta.get("val")
    sizes = value.shape if isinstance(value, Tensor) else ()
    return {str(each) for size in sizes if isinstance(size, SymInt) for each in size.node.expr.free_symbols}
