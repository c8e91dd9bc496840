"""From a checkpoint and a schedule to a bundle: capture, rewrite, lower, write."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch

from vitcop.calibrate.core.digests import hash_in_background
from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.models.loading import load_config, load_processor
from vitcop.calibrate.models.schedule_check import check_schedule
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import architecture_of, copy_processor_files, write_bundle, writing_bundle
from vitcop.export.bundle.counts import least_visual_count, whole_counts
from vitcop.export.capture import TokenGraph, capture_decode, capture_prefill, capture_vision, example_tables
from vitcop.export.capture.captures import Captures
from vitcop.export.capture.graphs import EXAMPLE_VISUAL
from vitcop.export.capture.paths import module_paths
from vitcop.export.capture.skeleton import Skeleton, load_skeleton
from vitcop.export.lower import lower
from vitcop.export.lower.tidy import tidy
from vitcop.export.lower.weights import attach_weights
from vitcop.export.rewrite import DropTokensPass, Sequence, SplitCachePass, VisionStagePass
from vitcop.export.rewrite.vision_stage import least_count
from vitcop.plugins.spec import DOMAIN

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def export_bundle(
    model_dir: Path,
    schedule: Schedule,
    out: Path,
    *,
    copy_weights: bool = False,
    captures: Captures | None = None,
    progress: Progress | None = None,
    source: str = "the schedule",
) -> Path:
    """Write the bundle of a model under a schedule; returns its path.

    Args:
        model_dir: a Hugging Face model folder (config.json, *.safetensors, processor).
        schedule: where to drop; the empty schedule exports the model as it is.
        out: the bundle's folder. It appears whole or not at all.
        copy_weights: put the weights into the bundle instead of referring to the model folder.
        captures: of earlier exports of this very model, so that its graphs are not captured again.
        source: what messages call the schedule, such as its file.

    Raises InputError where model, schedule or output folder cannot be used.
    """
    progress = progress or NoProgress()
    checkpoint = Checkpoint.open(model_dir)
    check_schedule(schedule, checkpoint, family_of(load_config(checkpoint.path)), source=source)
    load_processor(checkpoint.path)  # a bundle whose prompts cannot be prepared would be found out too late
    skeleton = load_skeleton(checkpoint) if captures is None else captures.skeleton(checkpoint)
    graphs = _graphs(skeleton, schedule, captures)
    # A 7B model takes minutes to trace, on one core, and most of a minute to hash. Copied weights are hashed as copies.
    hashing = hash_in_background(() if copy_weights else [checkpoint.path / name for name in checkpoint.shards])
    with writing_bundle(out) as staging:
        progress.start(len(graphs), "export")
        shards: set[str] = set()
        ops: set[str] = set()
        long_way: list[str] = []
        for name, graph in graphs.items():
            model, decomposed = lower(graph())
            if decomposed:
                long_way.append(name)
            shards |= attach_weights(model, skeleton.weights, skeleton.buffers, checkpoint.path)
            ops |= {function.name for function in model.functions.values() if function.domain == DOMAIN}
            tidy(model)
            ir.save(model, staging / f"{name}.onnx")
            progress.advance()
        copy_processor_files(checkpoint.path, staging)
        hashing.join()
        write_bundle(
            staging,
            Path(out),
            schedule=schedule,
            architecture=architecture_of(
                skeleton.model.config, skeleton.family, checkpoint.path, dtype=_DTYPES[skeleton.model.dtype]
            ),
            family=skeleton.family.name,
            model_id=checkpoint.model_id,
            config_hash=checkpoint.config_hash,
            weights_folder=checkpoint.path,
            shards=sorted(shards),
            ops=sorted(ops),
            copy_weights=copy_weights,
            provenance={"graphs_decomposed_by_torch_onnx": long_way},
        )
    return Path(out)


def _graphs(skeleton: Skeleton, schedule: Schedule, captures: Captures | None) -> dict[str, Callable[[], TokenGraph]]:
    """The three graphs by name, each captured and rewritten when it is called for."""
    model, family = skeleton.model, skeleton.family
    paths = module_paths(model, family)
    num_visual = schedule.vision_count(family.num_visual)
    schedule = whole_counts(schedule, num_visual)
    least = least_visual_count(schedule)

    def prefill() -> TokenGraph:
        with skeleton.mode:
            if captures is None:
                graph = capture_prefill(model, family, num_visual=max(num_visual, least), min_visual=least)
            else:
                example = max(family.num_visual, least)
                graph, _ = captures.take(
                    ("prefill", example), lambda: (capture_prefill(model, family, num_visual=example), 0.0)
                )
                graph.minimum |= {"visual": least, "sequence": least + 2}
        return Sequence(*[DropTokensPass(schedule, paths)] if schedule.drops else [])(graph)

    def decode() -> TokenGraph:
        with skeleton.mode:
            if captures is None:
                graph = capture_decode(model, family)
            else:
                graph, _ = captures.take("decode", lambda: (capture_decode(model, family), 0.0))
        return Sequence(*[SplitCachePass(schedule, paths)] if schedule.drops else [])(graph)

    return {"vision": lambda: vision_graph(skeleton, schedule, captures=captures), "prefill": prefill, "decode": decode}


def vision_graph(
    skeleton: Skeleton, schedule: Schedule, *, num_visual: int = EXAMPLE_VISUAL, captures: Captures | None = None
) -> TokenGraph:
    """Vision tower and projector with the vision stage of a schedule.

    Args:
        num_visual: visual tokens of the example, if the vision stage does not need more.
        captures: of earlier exports of this model.
    """
    num_visual = max(num_visual, least_count(schedule.vision) if schedule.vision else 0)
    model, family = skeleton.model, skeleton.family
    with skeleton.mode:
        watched = schedule.vision is not None
        capture = partial(capture_vision, model, family, watched=watched, num_visual=num_visual)
        graph, scale = capture() if captures is None else captures.take(("vision", watched, num_visual), capture)
        tables = example_tables(schedule, family, num_visual)
    return Sequence(*[VisionStagePass(schedule, tables, scale)] if schedule.vision else [])(graph)
