"""Where an engine parts from its graph, tensor by tensor: polygraphy runs both on the same inputs.

For `verify` that has found export loss. Needs the packages polygraphy and tensorrt (extra `tensorrt`). The engine here
is built anew for the prompts at hand, with the hidden states of the graph as outputs: marking them keeps TensorRT from
fusing across them, so a loss that comes from such a fusion may not show.

Both sides run the graph in the type that the engine was built in, the bundle's own or a converted one.

Not run on a real TensorRT yet; the half that runs ONNX Runtime is tested where polygraphy is installed.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.bundle.contract import carried_tensors, plane_names
from vitcop.export.runtimes.engine_folder import SIDECAR
from vitcop.export.runtimes.tensorrt.network import load_graph, load_plugins, vitcop_nodes
from vitcop.export.runtimes.tensorrt.preparation import plugin_library
from vitcop.export.runtimes.tensorrt.sidecar import MachineFacts, differences, read_sidecar
from vitcop.plugins.errors import MissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

_WATCHED = ("RMSNormalization", "LayerNormalization", "Attention", "MatMul")
"""Operations whose outputs are compared, beside vitcop's own: two or three of each layer, and every projection."""


@dataclass(frozen=True, kw_only=True)
class TensorGap:
    """One tensor of both runs.

    Args:
        name, op: the tensor and the operation that made it.
        deviation: greatest absolute difference; infinite where shapes differ or a value is not finite.
        magnitude: greatest absolute value in ONNX Runtime.
    """

    name: str
    op: str
    deviation: float
    magnitude: float


def tensor_gaps(
    bundle: Bundle, part: str, feeds: Mapping[str, np.ndarray], dtype: str | None = None
) -> list[TensorGap]:
    """Deviations between ONNX Runtime and TensorRT inside of a graph, in the graph's order.

    Args:
        part: "vision" or "prefill".
        feeds: all inputs of the graph, floats in any type.
        dtype: "float32" or "float16", what the graph is converted to; None leaves it as it is.

    Raises MissingError where polygraphy, TensorRT or the plugin library that the graph needs is not there.
    """
    if find_spec("polygraphy") is None:
        raise MissingError("layer-wise differences need the package polygraphy: pip install 'vitcop[tensorrt]'")
    with marked_graph(bundle, part, dtype) as (path, watched):
        feeds = feeds_for(path, feeds)
        reference, found = run_both([onnxruntime_runner(path), tensorrt_runner(path, feeds)], feeds)
    return gaps_between(reference, found, watched)


def locate_export_loss(bundle: Bundle, batch: PromptBatch, dtype: str | None = None) -> list[str]:
    """For people: in each graph, the first tensor that TensorRT computes otherwise, and by how much.

    Args:
        dtype: what the engine computes in; None asks the newest engine of this bundle.
    """
    dtype = dtype or engine_dtype(bundle)
    if dtype == "bfloat16":
        return ["the engine computes in bfloat16, which ONNX Runtime cannot on a CPU: no tensor can be compared"]
    lines = []
    for part, feeds in prompt_feeds(bundle, batch).items():
        gap = first_gap(tensor_gaps(bundle, part, feeds, dtype))
        if gap is None:
            lines.append(f"{part}: every watched tensor agrees with ONNX Runtime, in {dtype}")
        else:
            lines.append(
                f"{part}: {gap.name} ({gap.op}) is the first to part: {gap.deviation:.3g} where values reach "
                f"{gap.magnitude:.3g}, in {dtype}"
            )
    return lines


def engine_dtype(bundle: Bundle, here: MachineFacts | None = None) -> str:
    """What the newest engine of these graphs that this machine may run computes in; the graphs' type where none is.

    Args:
        here: facts of this machine; asked of TensorRT and torch where None.
    """
    own, graphs = bundle.manifest.architecture.dtype, {part: bundle.graph_hash(part) for part in GRAPHS}
    built = []
    for path in (bundle.engines_folder / "tensorrt").glob(f"[!.]*/{SIDECAR}"):
        sidecar = read_sidecar(path.parent)
        if sidecar["inputs"]["graphs"] == graphs:
            built.append((path.stat().st_mtime, sidecar))
    if not built:
        return own
    needed = any(sidecar["machine"]["plugin_sha256"] is not None for _, sidecar in built)
    here = here or MachineFacts.here(plugin_library(needed))
    fitting = [(time, sidecar["inputs"]["dtype"]) for time, sidecar in built if not differences(sidecar, here)]
    return max(fitting)[1] if fitting else own


def prompt_feeds(bundle: Bundle, batch: PromptBatch) -> dict[str, dict[str, np.ndarray]]:
    """Inputs of "vision" and "prefill" for one batch; what passes between the two comes from ONNX Runtime."""
    from vitcop.export.runtimes.onnxruntime import OnnxRuntimeOptions
    from vitcop.export.runtimes.onnxruntime.sessions import GraphSession

    session = GraphSession(bundle, "vision", OnnxRuntimeOptions())
    feeds = {name: batch.vision_inputs[name] for name in session.inputs}
    seen = session.run(feeds)
    short = batch.after_drop(seen["kept_patches"]) if "kept_patches" in seen else batch
    names = ("input_ids", "attention_mask", "position_ids", "visual_index")
    carried = (*plane_names(bundle.manifest.architecture.num_planes), *carried_tensors(bundle.schedule))
    prefill = {name: getattr(short, name) for name in names} | {name: seen[name] for name in carried}
    return {"vision": feeds, "prefill": prefill}


@contextmanager
def marked_graph(bundle: Bundle, part: str, dtype: str | None = None) -> "Iterator[tuple[Path, dict[str, str]]]":
    """A copy of a graph beside its weights whose watched tensors are outputs; and these with their operations.

    It lies in the bundle's folder of engines while it is used: there weights are links and not copies.

    Args:
        dtype: what the graph is converted to, weights included; None leaves it as it is.
    """
    # The one folder that a bundle may hold beside its files.
    bundle.engines_folder.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=bundle.engines_folder, prefix=".layerwise-") as folder:
        path = Path(folder) / f"{part}.onnx"
        if dtype in (None, bundle.manifest.architecture.dtype):
            model = load_graph(bundle.graph(part))
            for record in bundle.manifest.weights.files:
                _link((bundle.weights_folder / record.name).resolve(), Path(folder) / record.name)
        else:
            from vitcop.export.runtimes.tensorrt.precision import convert_graph

            convert_graph(bundle.graph(part), path, dtype)
            model = load_graph(path)
        watched = mark_outputs(model)
        path.write_bytes(model.SerializeToString())
        yield path, watched


def _link(source: Path, link: Path) -> None:
    try:
        link.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, link)


def feeds_for(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs in the types that a graph wants: half floats where it was converted."""
    from onnx import helper

    types = {item.name: item.type.tensor_type.elem_type for item in load_graph(path).graph.input}
    return {name: array.astype(helper.tensor_dtype_to_np_dtype(types[name])) for name, array in feeds.items()}


def mark_outputs(model: "onnx.ModelProto") -> dict[str, str]:
    """Make the watched tensors of a graph outputs, in place; returns name -> operation in order."""
    from onnx import shape_inference

    known = {item.name for item in model.graph.output}
    typed = {item.name: item for item in shape_inference.infer_shapes(model).graph.value_info}
    watched = {}
    for node in model.graph.node:
        if node.op_type in _WATCHED or node.domain == "vitcop":
            for name in node.output:
                if name in known or name in typed:
                    watched[name] = node.op_type
    model.graph.output.extend(typed[name] for name in watched if name not in known)
    return watched


def onnxruntime_runner(path: Path) -> Any:
    """polygraphy's runner of a graph on ONNX Runtime's CPU."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    return OnnxrtRunner(SessionFromOnnx(str(path)), name="onnxruntime")


def tensorrt_runner(path: Path, feeds: Mapping[str, np.ndarray]) -> Any:
    """polygraphy's runner of a graph on TensorRT, built for exactly these shapes.

    Raises MissingError without the plugins that the graph needs: the parser would take function bodies, and another
    network than the engine's would be compared.
    """
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineFromNetwork,
        NetworkFromOnnxPath,
        Profile,
        SetDecomposableAttentions,
        TrtRunner,
    )

    nodes = vitcop_nodes(load_graph(path))
    load_plugins(nodes, plugin_library(any(node.plugin for node in nodes)))
    profile = Profile()
    for name, array in feeds.items():
        profile.add(name, min=array.shape, opt=array.shape, max=array.shape)
    network = SetDecomposableAttentions(NetworkFromOnnxPath(str(path), strongly_typed=True))
    return TrtRunner(EngineFromNetwork(network, config=CreateConfig(profiles=[profile])), name="tensorrt")


def run_both(runners: Sequence[Any], feeds: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    """Outputs by name of each runner."""
    from polygraphy.comparator import Comparator

    results = Comparator.run(list(runners), data_loader=[dict(feeds)])
    return [results[runner.name][0] for runner in runners]


def gaps_between(
    reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], watched: Mapping[str, str]
) -> list[TensorGap]:
    """The watched tensors of both, compared."""
    gaps = []
    for name, op in watched.items():
        ours, theirs = (np.asarray(side[name], dtype=np.float64) for side in (reference, found))
        same = ours.shape == theirs.shape
        gap = float(np.abs(ours - theirs).max(initial=0.0)) if same else np.inf
        gaps.append(
            TensorGap(
                name=name,
                op=op,
                deviation=gap if np.isfinite(gap) else np.inf,
                magnitude=float(np.abs(ours).max(initial=0.0)),
            )
        )
    return gaps


def first_gap(gaps: Sequence[TensorGap], share: float = 1e-3) -> TensorGap | None:
    """The first tensor that deviates by more than a share of its largest value; None where all agree."""
    return next((gap for gap in gaps if gap.deviation > share * gap.magnitude), None)
