"""The Python packages of `trtllm/`, written from the source files that lie beside this one."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.calibrate.models.processor_files import is_processor_file
from vitcop.export.bundle.contract import plane_names
from vitcop.export.runtimes.tensorrt_llm.equivalent import VisionSide
from vitcop.export.runtimes.tensorrt_llm.families import stock_of
from vitcop.export.runtimes.tensorrt_llm.host_sources import write_host

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family

VISION, MODEL = "vitcop_vision", "vitcop_model"
SHARED = ("__init__.py", "pruning.py")
"""What the model package holds for every family; beside it the one file named after the family."""


def write_vision_package(side: VisionSide, family: "Family", processor: Path, folder: Path) -> None:
    """Sources, settings and processor of the vision package; the graph is written by `export_vision`.

    Args:
        processor: a folder that holds config.json and the processor's files.
    """
    for name in sorted(path.name for path in _home(VISION).iterdir() if path.name.endswith(".py")):
        _copy(VISION, name, folder)
    write_host(type(family).__module__, folder / "host")
    for path in sorted(processor.iterdir()):
        if is_processor_file(path.name):
            shutil.copyfile(path, folder / path.name)
    settings = {
        "family": type(family).__module__.rpartition(".")[2],
        "family_class": type(family).__name__,
        "keep": list(side.vision.keep),
        "merge": None if side.merge is None else list(side.merge),
        "one_image": stock_of(family.name).one_image,
        "planes": list(plane_names(family.num_planes)),
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_model_package(family: "Family", folder: Path) -> None:
    """Sources of the model package of one family."""
    folder.mkdir()
    for name in (*SHARED, f"{type(family).__module__.rpartition('.')[2]}.py"):
        _copy(MODEL, name, folder)


def _copy(package: str, name: str, folder: Path) -> None:
    shutil.copyfile(_home(package) / name, folder / name)


def _home(package: str) -> Path:
    # Not by importing: these packages run where TensorRT-LLM is, and import each other by their own names.
    return Path(__file__).parent / package
