"""Everything about a build that needs no TensorRT: is the bundle fit, are the graphs, which shapes, how much memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.models.dtypes import DTYPES
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.estimate import GIB, Estimate, estimate, weight_bytes
from vitcop.export.runtimes.tensorrt.network import VitcopNode, load_graph, vitcop_nodes
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.profiles import Profile, cache_capacities, profiles_for
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import onnx

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a build starts from.

    Args:
        dtype: "float32", "float16" or "bfloat16", what the engines compute in.
        converted: whether that is another type than the graphs'.
        profiles: shapes of every input of every graph.
        capacities: KV length of each layer group at its fullest.
        nodes: vitcop's nodes of each graph.
        memory: the estimate.
        path: the bundle's folder.
        problems: for each graph, what the static check found, one line for each node.
    """

    dtype: str
    converted: bool
    profiles: Mapping[str, Mapping[str, Profile]]
    capacities: tuple[int, ...]
    nodes: Mapping[str, tuple[VitcopNode, ...]]
    memory: Estimate
    path: Path
    problems: Mapping[str, tuple[str, ...]]

    @property
    def needs_plugin(self) -> bool:
        """Whether any graph has a node that the plugin takes."""
        return any(node.plugin for nodes in self.nodes.values() for node in nodes)


def prepare(bundle: Bundle, options: TensorRtOptions) -> Preparation:
    """Check a bundle for TensorRT and work out shapes and memory.

    Nodes that the parser would not take are told in `problems`: the graphs are looked at in the type that is built.
    Raises InputError for anything else that does not fit.
    """
    if bundle.manifest.weights.mode != "copied":
        raise InputError(
            f"{bundle.path}: its weights lie in the model folder, where TensorRT does not look for them; export it "
            "with --copy-weights (recipe: export.copy_weights: true)"
        )
    if bundle.manifest.architecture.sliding_layers:
        raise InputError(
            f"{bundle.path}: its language model has layers with sliding windows, which the decode engine of target "
            "tensorrt does not keep yet; use --target onnxruntime"
        )
    own = bundle.manifest.architecture.dtype
    dtype = DTYPES[options.precision] if options.precision else own
    if dtype == "float32" and own != dtype:
        raise InputError(
            f"{bundle.path}: its weights are {own}, and graphs are converted to half types only; leave precision=fp32 "
            "out"
        )
    if options.strip and dtype != own:
        raise InputError(
            f"strip with precision {options.precision}: a stripped engine takes its weights from the bundle again, and "
            f"they are {own}; leave one of the two out"
        )
    profiles = profiles_for(bundle, options.limits)
    capacities = cache_capacities(bundle, options.limits)
    graphs = {part: load_graph(bundle.graph(part)) for part in GRAPHS}
    converted = dtype != own
    built = {part: converted_graph(bundle, part, dtype) for part in GRAPHS} if converted else graphs
    tokens = profiles["prefill"]["input_ids"].max[1]
    return Preparation(
        dtype=dtype,
        converted=converted,
        profiles=profiles,
        capacities=capacities,
        nodes={part: vitcop_nodes(model) for part, model in built.items()},
        memory=estimate(
            {part: weight_bytes(model, dtype) for part, model in graphs.items()},
            bundle.manifest.architecture,
            bundle.schedule,
            dtype=dtype,
            batch=options.limits.max_batch,
            tokens=tokens,
            capacities=capacities,
            workspace=int(options.workspace * GIB) if options.workspace is not None else None,
        ),
        path=bundle.path,
        problems={part: operator_problems(model) for part, model in built.items()},
    )


def refuse_problems(prepared: Preparation) -> None:
    """Raises InputError where the static check found nodes that the parser would not take."""
    lines = [f"{part}: {line}" for part in GRAPHS for line in prepared.problems[part]]
    if lines:
        more = f"\n  and {len(lines) - _SHOWN} more, which --dry-run lists" if len(lines) > _SHOWN else ""
        shown = "\n  ".join(lines[:_SHOWN])
        raise InputError(f"{prepared.path}: TensorRT's parser does not take these nodes:\n  {shown}{more}")


def converted_graph(bundle: Bundle, part: str, dtype: str) -> "onnx.ModelProto":
    """A graph in the half type that is built, as `precision.convert_graph` writes it, but for looking at alone.

    No weight is read or converted: each stands in the bundle's own file, at its old place, with the bytes that its new
    type takes. So a parser finds a weight of the right size beside the bundle's graph, of numbers without meaning.
    """
    import numpy as np
    import onnx_ir as ir

    from vitcop.export.runtimes.tensorrt.precision import TYPES, narrowed

    target = TYPES[dtype]
    # Its named nodes are those that the converted graph has.
    model = narrowed(bundle, part, dtype, load_graph(bundle.graph(part)))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.dtype.is_floating_point():
            size = tensor.size * np.dtype(target.numpy()).itemsize
            value.const_value = ir.ExternalTensor(
                tensor.location, tensor.offset, size, target, shape=tensor.shape, name=value.name
            )
    return ir.to_proto(model)


def operator_problems(model: "onnx.ModelProto") -> tuple[str, ...]:
    """The static check against the parser's tables of operators, one line for each node that is outside of one, with
    the releases whose table that is: a bundle should build on any TensorRT that vitcop supports."""
    from vitcop.export.runtimes.tensorrt.operator_check import check_operators
    from vitcop.export.runtimes.tensorrt.operator_table import RELEASES

    # (operation, node) -> (what is there, what is taken) -> releases.
    found: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    for release in RELEASES:
        for finding in check_operators(model, release):
            said = found.setdefault((finding.op, finding.node), {})
            taken = finding.supported.replace(f"TensorRT {release}", "TensorRT")
            releases = said.setdefault((finding.found, taken), [])
            releases += [] if release in releases else [release]
    return tuple(
        f"{op} {node!r}: "
        + "; ".join(
            f"{there}, supported: {taken} (TensorRT {' and '.join(releases)})"
            for (there, taken), releases in said.items()
        )
        for (op, node), said in found.items()
    )


def plugin_library(needed: bool) -> Path | None:
    """The built plugin library, or None where no graph needs one or none is built."""
    if not needed:
        return None
    from vitcop.plugins.tensorrt.paths import plugin_path

    found: Any = plugin_path()
    return Path(found) if found is not None and Path(found).is_file() else None
