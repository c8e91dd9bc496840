"""What every bundle that the tests export is held against without TensorRT: the operators that its parser takes, and
its inputs inside of the profiles."""

from pathlib import Path

import onnx

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Prefill
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.tensorrt.operator_check import examine_operators
from vitcop.export.runtimes.tensorrt.operator_table import RELEASES
from vitcop.export.runtimes.tensorrt.precision import convert_graph
from vitcop.export.runtimes.tensorrt.profiles import Limits, profiles_for
from vitcop.plugins.registry import ALL_OPS

PLUGIN_TYPES = ("", "FP32", "FP16", "BF16", "INT32", "INT64")


def checked(bundle: Bundle, halves: Path | None = None) -> Bundle:
    """The bundle itself, after every node of its graphs was found in the tables of TensorRT.

    Args:
        halves: a folder; the graphs are converted to both half types there and held against the same tables.
    """
    for part in GRAPHS:
        model = onnx.load(bundle.graph(part), load_external_data=False)
        check_model(model, f"{bundle.path.name}/{part}")
        for dtype in ("float16", "bfloat16") if halves else ():
            path = halves / dtype / f"{part}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            convert_graph(bundle.graph(part), path, dtype)
            check_model(onnx.load(path, load_external_data=False), f"{bundle.path.name}/{part} in {dtype}")
    return bundle


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Nothing outside of the tables, and every vitcop node is listed as a plugin's."""
    own = [node.name for node in model.graph.node if node.domain == "vitcop"]
    for release in RELEASES:
        report = examine_operators(model, release)
        assert not report.findings, f"{what}, TensorRT {release}: " + "; ".join(map(str, report.findings))
        assert [node.node for node in report.plugins] == own, what
        for node in report.plugins:
            assert node.op in {spec.onnx_name for spec in ALL_OPS.values()}, node
            assert set(node.inputs + node.outputs) <= set(PLUGIN_TYPES), node


def check_profiles(bundle: Bundle, batch: PromptBatch, prefill: Prefill, new_tokens: int) -> None:
    """What a batch feeds lies inside of profiles whose limits are those of the batch."""
    rows, before = batch.visual_index.shape
    if not before:
        return
    text = batch.input_ids.shape[1] - before
    tiles = batch.vision_inputs["pixel_values"].shape[0] if has_tiles(bundle) else 1
    images = batch.vision_inputs["image_slots"].shape[0] if "image_slots" in batch.vision_inputs else 1
    limits = Limits(
        max_batch=rows,
        max_text=text,
        max_images=images,
        min_visual=before,
        opt_visual=before,
        max_visual=before,
        max_tiles=max(tiles, images),
        max_new_tokens=new_tokens,
    )
    found = profiles_for(bundle, limits)
    kept = before if prefill.vision is None else prefill.vision.kept_visual.shape[1]
    shapes = {
        "vision": {name: array.shape for name, array in batch.vision_inputs.items()},
        "prefill": {"input_ids": (rows, text + kept), "visual_index": (rows, kept)},
        "decode": {
            f"attention_mask_{group}": (rows, length + step)
            for group, length in enumerate(prefill.kv_lengths)
            for step in (1, new_tokens)
        },
    }
    for part, inputs in shapes.items():
        for name, shape in inputs.items():
            if name in found[part]:
                profile = found[part][name]
                inside = [a <= b <= c for a, b, c in zip(profile.min, shape, profile.max, strict=True)]
                assert all(inside), f"{part} {name}: {shape} is outside of {profile}"


def has_tiles(bundle: Bundle) -> bool:
    """Whether the encoder sees tiles."""
    return any("T" in record.axes for record in bundle.manifest.architecture.vision_inputs)
