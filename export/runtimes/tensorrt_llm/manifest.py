"""manifest.json of an emitted package: which stages each artefact honours, what it approximates, and for which
TensorRT-LLM it was written."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import sha256_of_file
from vitcop.export.bundle.manifest import Manifest
from vitcop.export.runtimes.tensorrt_llm.equivalent import VisionSide, budget_of
from vitcop.export.runtimes.tensorrt_llm.families import NO_STOCK, stock_of, windows_of

SCHEMA_VERSION = 1

ONE_BY_ONE = (
    "images of one prompt are pruned one by one; the schedule ranks the tokens of all images of a prompt together, "
    "which makes a difference for prompts of several images"
)
IMAGES_ALONE = "videos are refused"
ONE_IMAGE = (
    "prompts of several images are refused: this model tiles an image that is alone in its prompt and no other, and "
    "images are pruned one by one"
)
NO_SETTINGS = "mm_processor_kwargs are refused: images are processed with the settings that the schedule was made with"
PINNED = (
    "the package needs transformers >=5.14, and the releases of TensorRT-LLM that were looked at pin another one (1.2: "
    "4.57; 1.3.0rc15: 5.5.3): no environment meets both pins, and TensorRT-LLM with a newer transformers was not tried"
)
APART = "vitcop_vision needs no TensorRT-LLM: embeddings can be made in an environment of their own"
FIXED_RULE = (
    "by a fixed rule from the schedule alone; no other schedule of this budget was compared and nothing was measured"
)
SCHEDULE_FILE = "equivalent.schedule.json"
NOT_A_SCHEDULE = "a merge before the language model is no schedule, so this equivalent cannot be exported and verified"
NOT_RUN = (
    "No release of TensorRT-LLM has run this package: names and signatures were checked against files of its "
    "main branch, each at the commit that `source` names beside it and not at one snapshot or "
    "release; positions and embeddings against PyTorch."
)
REQUIRES = {"numpy": "", "onnxruntime": ">=1.24 (or onnxruntime-gpu)", "pillow": "", "transformers": ">=5.14"}


def api_table() -> dict[str, Any]:
    """Every name of TensorRT-LLM that the emitted code uses, and where it was read."""
    text = files("vitcop.export.runtimes.tensorrt_llm").joinpath("api.json").read_text(encoding="utf-8")
    return json.loads(text)


def manifest_of(side: VisionSide, bundle: Manifest, *, dtype: str, language_model: str, folder: Path) -> dict[str, Any]:
    """The manifest of the package in `folder`, which holds everything but the manifest itself.

    Args:
        dtype: float type of the embeddings.
        language_model: `model_type` of the language model's config.
    """
    num_visual, source = bundle.architecture.num_visual, side.source
    common = [] if stock_of(bundle.family).one_image else [ONE_BY_ONE]
    if bundle.architecture.sliding_layers:
        common.append(windows_of(language_model))
    if dtype != bundle.architecture.dtype:
        common.append(_other_type(bundle.architecture.dtype, dtype))
    table = api_table()
    return {
        "schema_version": SCHEMA_VERSION,
        "target": "tensorrt-llm",
        "model": {"id": bundle.model_id, "config_hash": bundle.config_hash, "family": bundle.family},
        "schedule": dataclasses.asdict(source),
        "equivalent": {
            "vision": dataclasses.asdict(side.vision),
            "merge": None if side.merge is None else {"keep": list(side.merge), "how": "mean"},
            "keep": list(side.keep),
            "chosen": FIXED_RULE,
            "schedule_file": SCHEDULE_FILE if side.merge is None else None,
            **({} if side.merge is None else {"why_no_schedule_file": NOT_A_SCHEDULE}),
            "budget": {
                "schedule": str(budget_of(source)),
                "equivalent": f"{side.keep[0]}/{side.keep[1]}",
            },
            "visual_tokens": {
                "of": num_visual,
                "schedule_by_layer": list(source.layer_counts(num_visual)),
                "equivalent_in_every_layer": side.count(num_visual),
            },
        },
        "artefacts": {
            "vitcop_vision": _vision_package(side, bundle.family, dtype, common),
            "vitcop_model": _model_package(side, bundle.family, common),
        },
        "tensorrt_llm": {
            "written_for": table["written_for"],
            "source": {"repository": table["repository"], "files": table["files"]},
            "checked": NOT_RUN,
        },
        "requires": REQUIRES,
        "files": [
            {"name": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of_file(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ],
    }


def report_lines(side: VisionSide) -> list[str]:
    """What became of each stage, for people."""
    return [f"{stage.stage}: {stage.honoured}: {stage.how}" for stage in side.report]


def _other_type(bundle: str, package: str) -> str:
    return (
        f"types: the vision graph computes in {package}, the bundle's in {bundle}: tokens whose scores nearly tie may "
        "be chosen otherwise"
    )


def _stages(side: VisionSide) -> list[dict[str, str]]:
    return [dataclasses.asdict(stage) for stage in side.report]


def _approximated(side: VisionSide) -> list[str]:
    return [f"{stage.stage}: {stage.how}" for stage in side.report if stage.honoured != "exactly"]


def _vision_package(side: VisionSide, family: str, dtype: str, common: list[str]) -> dict[str, Any]:
    stock = stock_of(family)
    return {
        "what": "prunes images on ONNX Runtime and gives embeddings for `multi_modal_embeddings` of the stock model",
        "stock_model": stock.model,
        "embeddings": dtype,
        "stages": _stages(side),
        "positions": {"honoured": "approximated", "how": stock.embedding_positions},
        "approximated": [
            *_approximated(side),
            f"positions: {stock.embedding_positions}",
            *common,
            *(() if stock.model else (NO_STOCK,)),
        ],
        "limits": [IMAGES_ALONE, *((ONE_IMAGE,) if stock.one_image else ()), PINNED, APART],
    }


def _model_package(side: VisionSide, family: str, common: list[str]) -> dict[str, Any]:
    stock = stock_of(family)
    if not stock.package:
        return {"what": None, "why_not": stock.no_package}
    return {
        "what": "out-of-tree model and input processor for --custom_module_dirs; it uses vitcop_vision beside it",
        "stock_model": stock.model,
        "stages": _stages(side),
        "positions": {
            "honoured": "exactly",
            "how": "kept tokens keep their ids on all three axes; generation goes on from the full prompt",
        },
        "approximated": [*_approximated(side), *common],
        "limits": [IMAGES_ALONE, NO_SETTINGS, PINNED],
    }
