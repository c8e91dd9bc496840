"""All rows of `doctor`, and which of them a recipe needs."""

import os
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from vitcop.export.bundle.versions import NOT_INSTALLED, version_of
from vitcop.export.runtimes.base import PACKAGING, packages_only, target_names
from vitcop.pipeline.doctor import gpu, tensorrt
from vitcop.pipeline.doctor.rows import Examination, Row
from vitcop.pipeline.doctor.shared_library import load
from vitcop.pipeline.inspection import size_text
from vitcop.pipeline.recipe import Recipe
from vitcop.pipeline.versions import vitcop_version
from vitcop.plugins.cuda.paths import library_path


def examine(recipe: Recipe | None = None, *, place: Path = Path(".")) -> Examination:
    """Look at this machine. With a recipe, what it needs is marked as required.

    Args:
        recipe: whose needs count; without one nothing is required.
        place: folder on the disk whose free space is told.
    """
    target = recipe.build.target if recipe else None
    device = str(recipe.engine.options.get("device", recipe.device)) if recipe else "cpu"
    on_gpu = device.startswith("cuda") or target == "tensorrt"
    rows = [
        Row(name="vitcop", found=vitcop_version(), purpose="everything"),
        *([_target(target)] if target else []),
        *_python(torch_on_gpu=recipe is not None and recipe.device == "cuda"),
        *_gpu(needed=on_gpu),
        *_onnxruntime(needed=target == "onnxruntime", on_gpu=target == "onnxruntime" and on_gpu),
        *_tensorrt(needed=target == "tensorrt"),
        _package(
            "tensorrt-llm",
            "serving the package of target tensorrt-llm (making it does without)",
            "pip install tensorrt-llm on the machine that serves",
        ),
        _package(
            "flash-attn",
            "--attn flash_attention_2",
            "pip install 'vitcop[flash-attn]'",
            required=recipe is not None and recipe.attn == "flash_attention_2",
        ),
        Row(
            name="free disk",
            found=size_text(shutil.disk_usage(place).free),
            purpose="bundles with copied weights, engines",
        ),
        Row(
            name="free memory",
            found=_memory(),
            purpose="loading the model",
            remedy="this system does not tell it",
        ),
    ]
    return Examination(rows=tuple(rows if recipe else [replace(row, required=False) for row in rows]))


def _python(*, torch_on_gpu: bool) -> list[Row]:
    return [
        Row(
            name="Python",
            found=platform.python_version() if sys.version_info >= (3, 11) else None,
            purpose="everything",
            remedy="install Python 3.11 or later",
            required=True,
        ),
        _package("torch", "calibrate, export, verify", "pip install torch", required=True),
        Row(
            name="CUDA of torch",
            found=gpu.torch_cuda(),
            purpose="device cuda in calibrate and verify",
            remedy="install a build of torch for CUDA; the one here is for the CPU alone",
            required=torch_on_gpu,
        ),
        _package("transformers", "calibrate, export, verify", "pip install transformers", required=True),
        _package("onnx", "export", "pip install onnx", required=True),
    ]


def _gpu(*, needed: bool) -> list[Row]:
    kernels = library_path()
    trouble = load(kernels, "vitcop_abi").error if kernels.exists() else ""
    return [
        Row(
            name="driver",
            found=gpu.driver(),
            purpose="device cuda, target tensorrt",
            remedy="install NVIDIA's driver",
            required=needed,
        ),
        Row(
            name="GPU",
            found=gpu.gpus(),
            purpose="device cuda, target tensorrt",
            remedy="needs an NVIDIA GPU and its driver",
            required=needed,
        ),
        Row(
            name="CUDA kernels",
            found="built, load" if kernels.exists() and not trouble else None,
            purpose="fast token dropping in PyTorch on a GPU",
            remedy=_with_trouble("make kernels", f"{kernels}: {trouble}" if trouble else ""),
        ),
    ]


def _onnxruntime(*, needed: bool, on_gpu: bool) -> list[Row]:
    providers = _providers()
    return [
        _package("onnxruntime", "target onnxruntime", "pip install onnxruntime (or onnxruntime-gpu)", required=needed),
        Row(
            name="providers",
            found=", ".join(providers) or None,
            purpose="target onnxruntime",
            remedy="pip install onnxruntime",
            required=needed,
        ),
        Row(
            name="CUDA provider",
            found="CUDAExecutionProvider" if "CUDAExecutionProvider" in providers else None,
            purpose="target onnxruntime with device cuda",
            remedy="pip install onnxruntime-gpu in place of onnxruntime",
            required=on_gpu,
        ),
    ]


def _tensorrt(*, needed: bool) -> list[Row]:
    (bindings, old), (libraries, broken), (plugin, unloadable) = (
        tensorrt.bindings(),
        tensorrt.libraries(),
        tensorrt.plugin(),
    )
    return [
        Row(
            name="TensorRT bindings",
            found=bindings,
            purpose="target tensorrt",
            remedy=_with_trouble("pip install 'vitcop[tensorrt]' (tensorrt-cu13-bindings)", old),
            required=needed,
        ),
        Row(
            name="TensorRT libraries",
            found=libraries,
            purpose="target tensorrt",
            remedy=_with_trouble("pip install tensorrt-cu13 (tensorrt-cu13-libs, NVIDIA's package index)", broken),
            required=needed,
        ),
        Row(
            name="TensorRT plugin",
            found=plugin,
            purpose="target tensorrt",
            remedy=_with_trouble(
                "make plugin TENSORRT_INCLUDE_DIR=..., or name one in VITCOP_TENSORRT_PLUGIN", unloadable
            ),
            required=needed,
        ),
        Row(
            name="nvcc",
            found=gpu.nvcc(),
            purpose="building the CUDA kernels and the TensorRT plugin",
            remedy="install the CUDA toolkit (cuda-nvcc)",
            # A plugin that is there already needs no compiler.
            required=needed and plugin is None,
        ),
    ]


def _target(target: str) -> Row:
    """Whether a recipe can be run for its target by this version of vitcop at all, whatever the machine has."""
    known = target in target_names()
    remedy = (
        str(packages_only(target))
        if known
        else f"this version of vitcop cannot build for it; available: {', '.join(target_names())}"
    )
    return Row(
        name=f"target {target}",
        found="available" if known and target not in PACKAGING else None,
        purpose="build.target of the recipe",
        remedy=remedy,
        required=True,
    )


def _package(name: str, purpose: str, remedy: str, *, required: bool = False) -> Row:
    version = version_of(name)
    found = None if version == NOT_INSTALLED else version
    return Row(name=name, found=found, purpose=purpose, remedy=remedy, required=required)


def _with_trouble(remedy: str, trouble: str) -> str:
    return f"{trouble}; {remedy}" if trouble else remedy


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _memory() -> str | None:
    """Memory that a program can still get, as Linux tells it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return size_text(kilobytes * 1024)
    except (OSError, StopIteration, ValueError):
        try:
            return size_text(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (ValueError, OSError):
            return None
