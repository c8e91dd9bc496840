"""The vision graph of a vision-side equivalent, exported from the model folder with its weights beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.export.runtimes.tensorrt_llm.equivalent import VisionSide
from vitcop.export.runtimes.tensorrt_llm.weights import WEIGHTS_NAME, gather_weights

if TYPE_CHECKING:
    from vitcop.calibrate.models.checkpoint import Checkpoint

GRAPH_NAME = "vision.onnx"


def export_vision(checkpoint: "Checkpoint", side: VisionSide, folder: Path) -> str:
    """Write vision.onnx and vision.safetensors into `folder`; returns the float type that the graph computes in.

    A bfloat16 checkpoint gives a graph in fp32: ONNX Runtime has no bfloat16 products on the CPU, and NumPy, in which
    features are handed on, has no bfloat16 at all. Widening the weights loses nothing.

    Raises InputError where model and schedule do not belong together.
    """
    import onnx
    import onnx_ir as ir
    import torch

    from vitcop.calibrate.models.schedule_check import check_schedule
    from vitcop.export.bundle.contract import plane_names
    from vitcop.export.capture.graphs import EXAMPLE_VISUAL
    from vitcop.export.capture.skeleton import load_skeleton, weights_dtype
    from vitcop.export.compile import vision_graph
    from vitcop.export.lower import lower
    from vitcop.export.lower.tidy import tidy
    from vitcop.export.lower.weights import attach_weights
    from vitcop.export.rewrite import MergeFeaturesPass, Sequence
    from vitcop.export.rewrite.vision_stage import least_count

    found = weights_dtype(checkpoint)
    dtype = torch.float32 if found == torch.bfloat16 else found
    skeleton = load_skeleton(checkpoint, dtype=dtype)
    check_schedule(side.schedule, checkpoint, skeleton.family)
    merge = None
    if side.merge is not None:
        assert side.vision.clusters is not None, "a merge needs clusters"
        merge = MergeFeaturesPass(
            centers=side.vision.clusters.centers,
            keep=side.merge,
            order=side.vision.order,
            planes=plane_names(skeleton.family.num_planes),
        )
    num_visual = max(EXAMPLE_VISUAL, merge.least_count(least_count(side.vision)) if merge else 0)
    graph = vision_graph(skeleton, side.schedule, num_visual=num_visual)
    if merge is not None:
        graph = Sequence(merge)(graph)
    model, _ = lower(graph)
    attach_weights(model, skeleton.weights, skeleton.buffers, checkpoint.path)
    tidy(model)
    path = folder / GRAPH_NAME
    ir.save(model, path)
    proto = onnx.load(path, load_external_data=False)
    gather_weights(proto, checkpoint.path, folder / WEIGHTS_NAME)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return {torch.float32: "float32", torch.float16: "float16"}[dtype]
