"""Building for ONNX Runtime: sessions are really created and held against the graph contract; a sidecar records it.

ONNX Runtime optimises a graph whenever it loads it, so the engine is the bundle's own graphs plus `engine.json`.
"""

from typing import Any

from vitcop.export.bundle import GRAPHS, Bundle, graph_contract
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.engine_folder import EngineFolder
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.export.runtimes.onnxruntime.sessions import GraphSession
from vitcop.plugins.errors import InputError

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")


def build(bundle: Bundle, options: OnnxRuntimeOptions | None = None) -> EngineInfo:
    """Check that a bundle runs here and write `engines/onnxruntime/<key>/engine.json`; the same inputs reuse it.

    Raises InputError where a graph is refused or breaks the graph contract (naming graph and tensor).
    """
    options = options or OnnxRuntimeOptions()
    place = EngineFolder(bundle, "onnxruntime", _inputs(bundle, options))
    there = place.existing(f"reused engine {place.key}: graphs, weights, options and versions are the same")
    if there is not None:
        return there
    reason = place.why()
    graphs = {}
    for part in GRAPHS:
        session = GraphSession(bundle, part, options)
        check_contract(session, bundle)
        graphs[part] = {
            side: [[v.name, v.type, list(v.shape)] for v in getattr(session, side).values()]
            for side in ("inputs", "outputs")
        }
    with place.staging() as staging:
        return place.finish(staging, {"graphs": graphs}, reason)


def check_contract(session: GraphSession, bundle: Bundle) -> None:
    """Hold a session's inputs and outputs against the graph contract. Raises InputError that names graph and tensor."""
    facts = bundle.manifest.architecture
    sizes = {"H": facts.hidden_size, "Nkv": facts.num_kv_heads, "D": facts.head_dim, "vocab": facts.vocab_size}
    spec = graph_contract(bundle.schedule, facts)[session.part]
    for side, wanted in (("input", spec.inputs), ("output", spec.outputs)):
        found = session.inputs if side == "input" else session.outputs
        where = f"{bundle.graph(session.part)}: {side}"
        names = {tensor.name for tensor in wanted}
        # An input that the graph does not read (the mask, say, of a batch that cannot be padded) may have been
        # pruned: that is a contract break too, since every runner feeds it.
        for name in sorted(names ^ set(found)):
            raise InputError(
                f"{where} {name!r} is {'missing' if name in names else 'not in the graph contract'}; export the "
                "bundle again"
            )
        for tensor in wanted:
            value = found[tensor.name]
            types = {"int64": ("tensor(int64)",), "float32": ("tensor(float)",), "float": _FLOATS}[tensor.kind]
            if value.type not in types:
                raise InputError(f"{where} {tensor.name!r} is {value.type}, expected {' or '.join(types)}")
            if len(value.shape) != len(tensor.axes):
                raise InputError(
                    f"{where} {tensor.name!r} has shape {value.shape}, expected [{', '.join(tensor.axes)}]"
                )
            for size, axis in zip(value.shape, tensor.axes, strict=True):
                expected = int(axis) if axis.isdigit() else sizes.get(axis)
                if isinstance(size, int) and expected is not None and size != expected:
                    raise InputError(f"{where} {tensor.name!r}: axis {axis} is {size}, expected {expected}")


def _inputs(bundle: Bundle, options: OnnxRuntimeOptions) -> dict[str, Any]:
    """All that the engine depends on."""
    return {
        "schedule": bundle.manifest.schedule_hash,
        "graphs": {part: bundle.graph_hash(part) for part in GRAPHS},
        "weights": {record.name: record.sha256 for record in bundle.manifest.weights.files},
        "provider": options.provider,
        "options": {"device": options.device, "threads": options.threads, "graph_optimization": "all"},
        "versions": installed_versions(("vitcop", "onnxruntime")),
    }
