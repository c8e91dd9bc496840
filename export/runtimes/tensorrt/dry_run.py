"""What a build would do, without building: unsupported nodes, which nodes become plugins, shapes, memory.

With TensorRT its parser is asked (no GPU memory, no kernels are timed). Without, the static table of operators answers,
and the report says so.
"""

from dataclasses import dataclass
from typing import Any

from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.installation import load_tensorrt, register_plugin
from vitcop.export.runtimes.tensorrt.network import (
    load_graph,
    make_builder,
    make_logger,
    make_network,
    unsupported_nodes,
)
from vitcop.export.runtimes.tensorrt.operator_table import RELEASES
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import plugin_library, prepare
from vitcop.plugins.errors import MissingError


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a build would meet.

    Args:
        checked_by: who said which nodes are supported.
        unsupported: for each graph, one line for each node that cannot be taken.
        plugin_nodes: for each graph, (name, operation) of the nodes that become plugin layers.
        function_nodes: likewise, vitcop's nodes that are built from their function bodies.
        profiles: for each graph and input, min, opt and max shape.
        memory: lines of the estimate.
    """

    checked_by: str
    unsupported: dict[str, list[str]]
    plugin_nodes: dict[str, list[tuple[str, str]]]
    function_nodes: dict[str, list[tuple[str, str]]]
    profiles: dict[str, dict[str, list[tuple[int, ...]]]]
    memory: list[str]

    @property
    def passed(self) -> bool:
        """Whether a build has a chance."""
        return not any(self.unsupported.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "passed": self.passed}

    def text(self) -> str:
        """For people."""
        lines = [f"nodes checked by {self.checked_by}"]
        for part in self.unsupported:
            lines.append(f"{part}: {len(self.unsupported[part]) or 'no'} unsupported nodes")
            lines += [f"  unsupported: {line}" for line in self.unsupported[part]]
            lines += [f"  plugin: {name} ({op})" for name, op in self.plugin_nodes[part]]
            lines += [f"  function body: {name} ({op})" for name, op in self.function_nodes[part]]
            lines += [
                f"  {name}: {' – '.join(str(list(shape)) for shape in shapes)}"
                for name, shapes in self.profiles[part].items()
            ]
        return "\n".join([*lines, *self.memory])


def dry_run(bundle: Bundle, options: TensorRtOptions | None = None) -> DryRun:
    """Look, and build nothing. Raises InputError for a bundle that does not fit TensorRT."""
    options = options or TensorRtOptions()
    # The static check is a part of this: its findings are errors with or without TensorRT.
    prepared = prepare(bundle, options)
    try:
        checked_by, unsupported = _ask_parser(bundle, prepared.needs_plugin)
    except MissingError as missing:
        tables = " and ".join(RELEASES)
        checked_by = f"the static tables of operators of TensorRT {tables}, not by TensorRT itself ({missing})"
        unsupported = {part: [] for part in GRAPHS}

    def rows(part: str, plugin: bool) -> list[tuple[str, str]]:
        return [(node.name, node.op) for node in prepared.nodes[part] if node.plugin == plugin]

    return DryRun(
        checked_by=checked_by,
        unsupported=unsupported,
        plugin_nodes={part: rows(part, True) for part in GRAPHS},
        function_nodes={part: rows(part, False) for part in GRAPHS},
        profiles={
            part: {name: [shape.min, shape.opt, shape.max] for name, shape in prepared.profiles[part].items()}
            for part in GRAPHS
        },
        memory=prepared.memory.lines(),
    )


def _ask_parser(bundle: Bundle, needs_plugin: bool) -> tuple[str, dict[str, list[str]]]:
    """TensorRT's own answer for each graph. Raises MissingError where there is no TensorRT, or no GPU to start it."""
    load_tensorrt()
    import tensorrt as trt

    logger = make_logger()
    builder = make_builder(logger)
    plugin = plugin_library(needs_plugin)
    if plugin is not None:
        registry: trt.IPluginRegistry = trt.get_plugin_registry()
        register_plugin(registry, str(plugin))
    found = {}
    for part in GRAPHS:
        source = bundle.graph(part)
        network = make_network(builder)
        parser = trt.OnnxParser(network, logger)
        found[part] = unsupported_nodes(parser, load_graph(source), source)
    note = "" if plugin is not None or not needs_plugin else ", without the plugin library, which is not built"
    return f"TensorRT {trt.__version__}{note}", found
