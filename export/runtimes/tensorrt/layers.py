"""What a built engine says of its layers: whether the plugins are in it, and how long each layer takes."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitcop.export.runtimes.tensorrt.network import VitcopNode
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt


def engine_layers(engine: "trt.ICudaEngine") -> dict[str, Any]:
    """The engine inspector's report: `{"Layers": [...], …}`, a layer being its name or a table with "Name"."""
    import tensorrt as trt

    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return json.loads(text) if text.strip() else {}


def layer_names(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of all layers, whichever profiling verbosity the engine was built with."""
    return tuple(layer if isinstance(layer, str) else str(layer.get("Name", "")) for layer in report.get("Layers", ()))


def missing_plugins(report: Mapping[str, Any], nodes: Sequence[VitcopNode]) -> tuple[VitcopNode, ...]:
    """Nodes that the plugin should have taken and that are in no layer of the engine.

    A layer counts when it bears the node's name and, where the report says so, is a plugin: the nodes of a function
    body bear the name of their call too.
    """
    layers = report.get("Layers", ())
    return tuple(node for node in nodes if node.plugin and not any(_is_plugin(layer, node.name) for layer in layers))


def check_plugin_layers(report: Mapping[str, Any], nodes: Sequence[VitcopNode], where: str) -> None:
    """Raises InputError where a plugin layer is not in the engine: its function body was built instead."""
    lost = missing_plugins(report, nodes)
    if lost:
        names = ", ".join(f"{node.name} ({node.op})" for node in lost)
        raise InputError(
            f"{where}: the built engine has no plugin layer for {names}: TensorRT took the standard operations of its "
            "function body instead. Check that the plugin library is of this version (make plugin) and export again"
        )


def check_network_plugins(network: "trt.INetworkDefinition", nodes: Sequence[VitcopNode], where: str) -> None:
    """Raises InputError where a node is no plugin layer of its name in a parsed network.

    The layers of a function body may bear the name of their call, and a built engine that keeps names alone does not
    tell what its layers are; the network does, whatever the engine keeps.
    """
    import tensorrt as trt

    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.PLUGIN_V3:
            found.add(layer.name)
    lost = [f"{node.name} ({node.op})" for node in nodes if node.plugin and node.name not in found]
    if lost:
        raise InputError(
            f"{where}: TensorRT's parser made no plugin layer of {', '.join(lost)}, but the standard operations of its "
            "function body. Check that the plugin library is of this version (make plugin) and export again"
        )


def selector_share(times: Mapping[str, float], nodes: Sequence[VitcopNode]) -> float | None:
    """Share of the time in vitcop's own layers, from the time of each layer by name; None where it cannot be told.

    Operations without a plugin are many small layers that TensorRT fuses with others, so their time is unknown.
    """
    if not nodes:
        return 0.0
    if not all(node.plugin for node in nodes):
        return None
    names = [node.name for node in nodes]
    found = [value for layer, value in times.items() if any(_bears(layer, name) for name in names)]
    total = sum(times.values())
    return sum(found) / total if found and total else None


def make_profiler(times: dict[str, float]) -> "trt.IProfiler":
    """A profiler that adds the milliseconds of each layer to `times`."""
    import tensorrt as trt

    class LayerTimes(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name] = times.get(layer_name, 0.0) + ms

    return LayerTimes()


def _is_plugin(layer: Any, name: str) -> bool:
    if isinstance(layer, str):
        return _bears(layer, name)
    kind = str(layer.get("LayerType", ""))
    return _bears(str(layer.get("Name", "")), name) and (not kind or "plugin" in kind.lower())


def _bears(layer: str, name: str) -> bool:
    """Whether a layer's name is a node's, alone or as a part of a fused layer's ("a + b") but not of a longer name."""
    parts = layer.replace("{", " ").replace("}", " ").replace("[", " ").replace("]", " ").replace("...", " ").split()
    return name in parts
