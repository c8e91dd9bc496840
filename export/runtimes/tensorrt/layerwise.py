"""Where an engine parts from its graph, tensor by tensor: polygraphy runs both on the same inputs.

For `verify` that has found export loss. Needs the packages polygraphy and tensorrt (extra `tensorrt`). The engine here
is built anew for the prompts at hand, with the hidden states of the graph as outputs: marking them keeps TensorRT from
fusing across them, so a loss that comes from such a fusion may not show.

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

from vitcop.calibrate.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.contract import carried_tensors, plane_names
from vitcop.export.runtimes.tensorrt.network import load_graph
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


def tensor_gaps(bundle: Bundle, part: str, feeds: Mapping[str, np.ndarray]) -> list[TensorGap]:
    """Deviations between ONNX Runtime and TensorRT inside of a graph, in the graph's order.

    Args:
        part: "vision" or "prefill".
        feeds: all inputs of the graph.

    Raises MissingError where polygraphy or TensorRT is not installed.
    """
    if find_spec("polygraphy") is None:
        raise MissingError("layer-wise differences need the package polygraphy: pip install 'vitcop[tensorrt]'")
    with marked_graph(bundle, part) as (path, watched):
        reference, found = run_both([onnxruntime_runner(path), tensorrt_runner(path, feeds)], feeds)
    return gaps_between(reference, found, watched)


def locate_export_loss(bundle: Bundle, batch: PromptBatch) -> list[str]:
    """For people: in each graph, the first tensor that TensorRT computes otherwise, and by how much."""
    lines = []
    for part, feeds in prompt_feeds(bundle, batch).items():
        gap = first_gap(tensor_gaps(bundle, part, feeds))
        if gap is None:
            lines.append(f"{part}: every watched tensor agrees with ONNX Runtime, in the graph's own type")
        else:
            lines.append(
                f"{part}: {gap.name} ({gap.op}) is the first to part: {gap.deviation:.3g} where values reach "
                f"{gap.magnitude:.3g}, in the graph's own type"
            )
    return lines


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
def marked_graph(bundle: Bundle, part: str) -> "Iterator[tuple[Path, dict[str, str]]]":
    """A copy of a graph beside its weights whose watched tensors are outputs; and these with their operations."""
    model = load_graph(bundle.graph(part))
    watched = mark_outputs(model)
    with TemporaryDirectory() as folder:
        for record in bundle.manifest.weights.files:
            source, link = (bundle.weights_folder / record.name).resolve(), Path(folder) / record.name
            try:
                link.hardlink_to(source)
            except OSError:  # another file system
                shutil.copyfile(source, link)
        path = Path(folder) / f"{part}.onnx"
        path.write_bytes(model.SerializeToString())
        yield path, watched


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
    """polygraphy's runner of a graph on TensorRT, built for exactly these shapes."""
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineFromNetwork,
        NetworkFromOnnxPath,
        Profile,
        SetDecomposableAttentions,
        TrtRunner,
    )

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
