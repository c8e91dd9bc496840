"""From a graph of the bundle to a TensorRT network: strongly typed, vitcop's nodes as plugins, errors one line each."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.export.runtimes.tensorrt.installation import register_plugin
from vitcop.plugins.errors import InputError, MissingError
from vitcop.plugins.registry import ONNX_OPS
from vitcop.plugins.spec import DOMAIN

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

_LOG = logging.getLogger("vitcop.tensorrt")

MAKE_PLUGIN = "make plugin TENSORRT_INCLUDE_DIR=…"
_SHOWN = 8
"""Errors of one graph that are passed on."""
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class VitcopNode:
    """A node of vitcop's own domain: its name in the graph, its operation, and whether it has to become a plugin layer:
    true for each operation of this version. Whether a library with the plugin is there is asked by `known_creators`."""

    name: str
    op: str
    plugin: bool


def vitcop_nodes(model: "onnx.ModelProto") -> tuple[VitcopNode, ...]:
    """All nodes of vitcop's domain in a graph, in order."""
    return tuple(
        VitcopNode(name=node.name, op=node.op_type, plugin=node.op_type in ONNX_OPS)
        for node in model.graph.node
        if node.domain == DOMAIN
    )


def load_graph(path: Path) -> "onnx.ModelProto":
    """A graph without its weights, every node of vitcop's named: the engine's layers are found by these names."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home.
        raise InputError(f"{path}: not a readable ONNX file ({one_line(error)}); export the bundle again") from None
    for index, node in enumerate(model.graph.node):
        if node.domain == DOMAIN and not node.name:
            node.name = f"vitcop_{node.op_type}_{index}"
    return model


def parser_bytes(model: "onnx.ModelProto") -> bytes:
    """A graph as TensorRT's parser gets it: every Attention may be taken apart.

    The parser wants one fused kernel for each Attention, and the build fails where there is none, as in fp32 or for
    some head sizes; its own attribute TRT_decomposable lets a few plain kernels stand in.
    """
    from onnx import helper

    copy = type(model)()
    copy.CopyFrom(model)
    for nodes in (copy.graph.node, *(function.node for function in copy.functions)):
        for node in nodes:
            if node.op_type == "Attention" and not node.domain:
                node.attribute.append(helper.make_attribute("TRT_decomposable", 1))
    return copy.SerializeToString()


def make_logger() -> "trt.ILogger":
    """TensorRT's warnings and errors for Python's log. (Its own logger writes to stdout, which belongs to results.)

    It has to live as long as anything that was made with it.
    """
    import tensorrt as trt

    severity = trt.ILogger.Severity
    levels = {severity.WARNING: logging.WARNING, severity.ERROR: logging.ERROR, severity.INTERNAL_ERROR: logging.ERROR}

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in levels:
                _LOG.log(levels[severity], "TensorRT: %s", one_line(msg))

    return Log()


def make_builder(logger: "trt.ILogger") -> "trt.Builder":
    """TensorRT's builder. Raises MissingError where it cannot start, as without an NVIDIA GPU."""
    import tensorrt as trt

    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:
        # The bindings turn a builder that could not be made into a TypeError about their own constructor.
        raise MissingError(
            f"TensorRT {trt.__version__} cannot start a builder on this machine ({one_line(error)}); it needs an "
            "NVIDIA GPU, its driver and the whole TensorRT library"
        ) from None


def make_network(builder: "trt.Builder") -> "trt.INetworkDefinition":
    """An empty network, strongly typed. TensorRT 11 knows no other and ignores the flag."""
    import tensorrt as trt

    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return builder.create_network(flags)


def parse(
    network: "trt.INetworkDefinition", logger: "trt.ILogger", model: "onnx.ModelProto", source: Path
) -> "trt.OnnxParser":
    """Parse a graph into an empty network; its weights are looked for beside `source`.

    Returns the parser, which has to live until the engine is built: the weights are in its memory. Raises InputError
    with one line for each error.
    """
    import tensorrt as trt

    parser = trt.OnnxParser(network, logger)
    if not parser.parse(parser_bytes(model), path=str(source)):
        lines = error_lines(parser)
        shown = "\n  ".join(lines[:_SHOWN]) or "no reason given"
        more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise InputError(f"{source}: TensorRT {trt.__version__} cannot read the graph:\n  {shown}{more}")
    return parser


def error_lines(parser: "trt.OnnxParser") -> list[str]:
    """The errors of a parser, one line each: node, operation, reason."""
    import tensorrt as trt

    lines = []
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        where = f"node {error.node_name() or error.node()!r} ({error.node_operator() or 'unknown operation'})"
        lines.append(f"{where}: {one_line(error.desc())}")
    return lines


def unsupported_nodes(parser: "trt.OnnxParser", model: "onnx.ModelProto", source: Path) -> list[str]:
    """Parse only, to list what TensorRT cannot take: one line for each node or error. Empty where all is well."""
    if parser.supports_model_v2(parser_bytes(model), path=str(source)):
        return []
    lines = error_lines(parser)
    if lines:
        return lines
    nodes: list[int] = []
    for index in range(parser.num_subgraphs):
        if not parser.is_subgraph_supported(index):
            nodes += parser.get_subgraph_nodes(index)
    graph = list(model.graph.node)
    return [f"node {graph[index].name!r} ({graph[index].op_type})" for index in nodes]


def known_creators(registry: "trt.IPluginRegistry", ops: Iterable[str]) -> frozenset[str]:
    """Those of vitcop's operations for which TensorRT's registry has a plugin, by the name, version and namespace that
    the parser asks for."""
    return frozenset(op for op in ops if registry.get_creator(op, ONNX_OPS[op].plugin_version, DOMAIN) is not None)


def check_creators(registry: "trt.IPluginRegistry", nodes: Sequence[VitcopNode], library: Path | None) -> None:
    """Raises MissingError where the registry has no plugin for a node that wants one: the parser would take the
    function body without a word."""
    ops = {node.op for node in nodes if node.plugin}
    for op in sorted(ops - known_creators(registry, ops)):
        where = f"{library} has no plugin {op!r}" if library else f"the plugin library is not built ({op} needs it)"
        raise MissingError(f"{where}; run: {MAKE_PLUGIN}")


def load_plugins(nodes: Sequence[VitcopNode], library: Path | None) -> None:
    """Load the plugin library into TensorRT's registry. Raises MissingError as `check_creators` does, or where the
    library cannot be loaded."""
    import tensorrt as trt

    registry: trt.IPluginRegistry = trt.get_plugin_registry()
    if library is not None:
        register_plugin(registry, str(library))
    check_creators(registry, nodes, library)


def one_line(error: object) -> str:
    """A message on one line, not too long."""
    return " ".join(str(error).split())[:_LONGEST]
