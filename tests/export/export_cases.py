"""Schedules to export, and running captured graphs in PyTorch without any runtime."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.export.bundle import Bundle
from vitcop.export.capture import TokenGraph, example_tables
from vitcop.export.capture.paths import ModulePaths
from vitcop.export.rewrite import DropTokensPass, SplitCachePass, VisionStagePass

VISION = VisionStage(keep=(3, 4), clusters=Clusters(centers=(3, 10)))
SALIENCY = {"score": "vision_saliency", "order": "largest"}
PAPER = Schedule(
    num_layers=3,
    vision=VISION,
    drops=(Drop(layer=1, op="merge", keep=(3, 4)), Drop(layer=2, keep=(1, 2))),
)
ONE_MERGE = Schedule(num_layers=2, vision=VISION, drops=(Drop(layer=1, op="merge", keep=(1, 2)),))
SCHEDULES = {
    "paper": PAPER,
    "merge-largest-mean": Schedule(
        num_layers=3,
        vision=VISION,
        drops=(Drop(layer=2, op="merge", order="largest", head_reduction="mean_norm", keep=(1, 2), merge="mean"),),
    ),
    "merge-text-query": Schedule(
        num_layers=3,
        vision=VISION,
        drops=(Drop(layer=1, op="merge", score="text_query", order="largest", keep=(2, 3)),),
    ),
    "text-query": Schedule(
        num_layers=3,
        vision=VisionStage(keep=(1, 2)),
        drops=(Drop(layer=2, score="text_query", order="largest", keep=(2, 3)),),
    ),
    "saliency-carried": Schedule(
        num_layers=3,
        vision=VisionStage(keep=(7, 8)),
        drops=(Drop(layer=1, keep=(2, 3), **SALIENCY), Drop(layer=2, keep=(1, 2), **SALIENCY)),
    ),
    "saliency-after-merge": Schedule(
        num_layers=3,
        vision=VISION,
        drops=(Drop(layer=1, op="merge", keep=(3, 4)), Drop(layer=2, keep=(1, 3), **SALIENCY)),
    ),
    "uniform": Schedule(
        num_layers=3,
        vision=VisionStage(score="uniform", keep=(5, 8)),
        drops=(Drop(layer=1, score="uniform", order="largest", keep=(1, 2)),),
    ),
    "random": Schedule(
        num_layers=3,
        vision=VisionStage(score="random", keep=(3, 4), seed=3),
        drops=(
            Drop(layer=1, score="random", order="largest", keep=(2, 3), seed=5),
            Drop(layer=2, score="random", order="largest", keep=(1, 2), seed=6),
        ),
    ),
    "no-vision-stage": Schedule(
        num_layers=3, drops=(Drop(layer=2, head_reduction="mean_norm", order="largest", keep=(2, 5)),)
    ),
    "adjacent-selects": Schedule(
        num_layers=3,
        drops=(Drop(layer=1, keep=(3, 4)), Drop(layer=2, score="text_query", order="largest", keep=(1, 3))),
    ),
    "vision-stage-alone": Schedule(num_layers=3, vision=VisionStage(keep=(1, 4))),
}


@dataclass(frozen=True)
class Captured:
    """A model and its three graphs, holding the model's own weights."""

    folder: Path
    model: Any
    processor: Any
    family: Any
    paths: ModulePaths
    scale: float
    graphs: dict[str, TokenGraph]


@dataclass(frozen=True)
class Exported:
    """A model and a bundle made of it."""

    folder: Path
    model: Any
    processor: Any
    family: Any
    bundle: Bundle


def duplicate(graph: TokenGraph) -> TokenGraph:
    """A copy whose graph may be edited; weights are shared."""
    module = fx.GraphModule(graph.module, copy.deepcopy(graph.module.graph))
    return replace(
        graph, module=module, inputs=dict(graph.inputs), outputs=list(graph.outputs), minimum=dict(graph.minimum)
    )


def vision_stage(captured: Captured, schedule: Schedule) -> TokenGraph:
    """The vision graph under a schedule, as its pass leaves it."""
    return vision_pass(captured, schedule)(duplicate(captured.graphs["vision"]))


def vision_pass(captured: Captured, schedule: Schedule) -> VisionStagePass:
    """The pass of stage I."""
    return VisionStagePass(schedule, example_tables(schedule, captured.family), captured.scale)


def drop_points(captured: Captured, schedule: Schedule) -> TokenGraph:
    """The prefill graph under a schedule, as its pass leaves it."""
    return DropTokensPass(schedule, captured.paths)(duplicate(captured.graphs["prefill"]))


def split_cache(captured: Captured, schedule: Schedule) -> TokenGraph:
    """The decode graph under a schedule, as its pass leaves it."""
    return SplitCachePass(schedule, captured.paths)(duplicate(captured.graphs["decode"]))


def run_graph(graph: TokenGraph, feeds: dict[str, Any]) -> dict[str, Tensor]:
    """Call a graph by names; feeds that it does not take are left out."""
    with torch.inference_mode():
        results = graph.module(*(torch.as_tensor(feeds[name]) for name in graph.inputs))
    return dict(zip(graph.outputs, results, strict=True))


def prompt_feeds(batch: PromptBatch) -> dict[str, np.ndarray]:
    """What the prefill graph reads of a batch."""
    return {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "position_ids", "visual_index")}
