"""What a build would do, without building: unsupported nodes, which nodes become plugins, shapes, memory.

The static tables of operators are always asked, of the graphs in the type that is built. With TensorRT its parser is
asked too (no GPU memory, no kernels are timed), and its registry for the plugins; where one of them cannot be asked,
the report says so.

The parser's half has not been run on a real TensorRT yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.installation import load_tensorrt, register_plugin
from vitcop.export.runtimes.tensorrt.network import (
    MAKE_PLUGIN,
    known_creators,
    load_graph,
    make_builder,
    make_logger,
    make_network,
    unsupported_nodes,
)
from vitcop.export.runtimes.tensorrt.operator_table import RELEASES
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import Preparation, converted_graph, plugin_library, prepare
from vitcop.plugins.errors import MissingError

Rows = dict[str, list[tuple[str, str]]]
"""For each graph, (name, operation) of nodes."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a build would meet.

    Args:
        checked_by: who said which nodes are supported.
        plugins_by: who said which nodes become plugins.
        unsupported: for each graph, one line for each node that cannot be taken.
        plugin_nodes: the nodes that become plugin layers.
        waiting_nodes: vitcop's nodes whose plugin is not there: they need `make plugin`.
        function_nodes: vitcop's nodes for which there is no plugin in this version: built from their function bodies.
        missing: what is missing on this machine, a line each; a build here would end with status 4.
        profiles: for each graph and input, min, opt and max shape.
        memory: lines of the estimate.
    """

    checked_by: str
    plugins_by: str
    unsupported: dict[str, list[str]]
    plugin_nodes: Rows
    waiting_nodes: Rows
    function_nodes: Rows
    missing: list[str]
    profiles: dict[str, dict[str, list[tuple[int, ...]]]]
    memory: list[str]

    @property
    def passed(self) -> bool:
        """Whether every node can be taken: a build has a chance on a machine where nothing is missing."""
        return not any(self.unsupported.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "passed": self.passed}

    def text(self) -> str:
        """For people."""
        lines = [f"nodes checked by {self.checked_by}", f"plugins told by {self.plugins_by}"]
        for part in self.unsupported:
            lines.append(f"{part}: {len(self.unsupported[part]) or 'no'} unsupported nodes")
            lines += [f"  unsupported: {line}" for line in self.unsupported[part]]
            lines += [f"  plugin: {name} ({op})" for name, op in self.plugin_nodes[part]]
            lines += [f"  needs `make plugin`: {name} ({op})" for name, op in self.waiting_nodes[part]]
            lines += [f"  function body: {name} ({op})" for name, op in self.function_nodes[part]]
            lines += [
                f"  {name}: {' – '.join(str(list(shape)) for shape in shapes)}"
                for name, shapes in self.profiles[part].items()
            ]
        lines += self.memory
        return "\n".join([*lines, *(f"a build here would end with status 4: {line}" for line in self.missing)])


def dry_run(bundle: Bundle, options: TensorRtOptions | None = None) -> DryRun:
    """Look, and build nothing. Raises InputError for a bundle that does not fit TensorRT for another reason than its
    nodes."""
    options = options or TensorRtOptions()
    prepared = prepare(bundle, options)
    missing: list[str] = []
    library = _library(prepared, missing)
    ops = frozenset(node.op for nodes in prepared.nodes.values() for node in nodes if node.plugin)
    tables = f"the static tables of operators of TensorRT {' and '.join(RELEASES)}"
    unsupported = {part: list(prepared.problems[part]) for part in GRAPHS}
    try:
        version = load_tensorrt()
    except MissingError as error:
        missing.append(str(error))
        checked_by, there = f"{tables}, not by TensorRT itself ({error})", None
    else:
        there = _ask_registry(ops, library, missing)
        try:
            for part, lines in _ask_parser(bundle, options, prepared).items():
                unsupported[part] += lines
            checked_by = f"TensorRT {version} and {tables}"
        except MissingError as error:
            missing.append(str(error))
            checked_by = f"{tables}, not by TensorRT itself ({error})"
    plugins_by = "the registry of TensorRT"
    if there is None:
        there = ops if library is not None else frozenset()
        plugins_by = f"{library or 'the absence of the plugin library'}; no registry of TensorRT could be asked"
    if ops - there:
        lacks = f"{library} has no plugins for" if library else "the plugin library is not built, and is needed for"
        missing.insert(0, f"{lacks} {', '.join(sorted(ops - there))}; run: {MAKE_PLUGIN}")

    def rows(plugin: bool, found: bool = False) -> Rows:
        return {
            part: [(node.name, node.op) for node in nodes if node.plugin == plugin and (node.op in there) == found]
            for part, nodes in prepared.nodes.items()
        }

    return DryRun(
        checked_by=checked_by,
        plugins_by=plugins_by if ops else "nobody: no node needs one",
        unsupported=unsupported,
        plugin_nodes=rows(True, found=True),
        waiting_nodes=rows(True),
        function_nodes=rows(False),
        missing=missing,
        profiles={
            part: {name: [shape.min, shape.opt, shape.max] for name, shape in prepared.profiles[part].items()}
            for part in GRAPHS
        },
        memory=prepared.memory.lines(),
    )


def _library(prepared: Preparation, missing: list[str]) -> Path | None:
    """The plugin library; what is wrong with its place goes to `missing`."""
    try:
        return plugin_library(prepared.needs_plugin)
    except MissingError as error:
        missing.append(str(error))
        return None


def _ask_registry(ops: frozenset[str], library: Path | None, missing: list[str]) -> frozenset[str] | None:
    """The operations that TensorRT's registry has plugins for, the library loaded; None where there is no registry."""
    import tensorrt as trt

    registry: trt.IPluginRegistry = trt.get_plugin_registry()
    if registry is None:
        return None
    if library is not None:
        try:
            register_plugin(registry, str(library))
        except MissingError as error:
            missing.append(str(error))
    return known_creators(registry, ops)


def _ask_parser(bundle: Bundle, options: TensorRtOptions, prepared: Preparation) -> dict[str, list[str]]:
    """TensorRT's own answer for each graph as it would be built: in its type, the decode graph cut for in-place caches.

    Raises MissingError where there is no GPU to start TensorRT, or it has no in-place caches that are asked for.
    """
    import tensorrt as trt

    from vitcop.export.runtimes.tensorrt.decode_graph import cut_attention
    from vitcop.export.runtimes.tensorrt.kv_cache import kv_form

    logger = make_logger()
    builder = make_builder(logger)
    form = kv_form(options.kv_cache)
    found = {}
    for part in GRAPHS:
        source = bundle.graph(part)
        model = converted_graph(bundle, part, prepared.dtype) if prepared.converted else load_graph(source)
        if part == "decode" and form != "plain":
            cut_attention(model)
        network = make_network(builder)
        parser = trt.OnnxParser(network, logger)
        found[part] = unsupported_nodes(parser, model, source)
    return found
