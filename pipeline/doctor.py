"""`doctor`: what this machine has, what each missing part is needed for, and what to install."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitcop.export.bundle.versions import NOT_INSTALLED, version_of
from vitcop.export.runtimes import target_names
from vitcop.pipeline.inspection import size_text, table
from vitcop.pipeline.recipe import Recipe
from vitcop.pipeline.versions import vitcop_version
from vitcop.plugins.cuda.paths import library_path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of the machine.

    Args:
        found: its version or state; None where it is missing.
        purpose: what needs it.
        remedy: what to install or do; empty where nothing is to be done.
        required: the recipe at hand needs it.
    """

    name: str
    found: str | None
    purpose: str
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All rows."""

    rows: tuple[Row, ...]

    @property
    def missing(self) -> tuple[Row, ...]:
        """What is required and not there."""
        return tuple(row for row in self.rows if row.required and row.found is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {"rows": [asdict(row) for row in self.rows], "missing": [row.name for row in self.missing]}

    def table(self) -> str:
        """The rows as text."""
        lines = [("", "found", "needed for", "if missing")]
        for row in self.rows:
            state = row.found or ("MISSING" if row.required else "missing")
            lines.append((row.name, state, row.purpose, row.remedy if row.found is None else ""))
        return "\n".join(table(lines))


def examine(recipe: Recipe | None = None, *, place: Path = Path(".")) -> Examination:
    """Look at this machine. With a recipe, what it needs is marked as required."""
    target = recipe.build.target if recipe else None
    device = str(recipe.target_options.get("device", recipe.device)) if recipe else "cpu"
    cuda = device.startswith("cuda") or target in ("tensorrt", "tensorrt-llm")
    providers = _providers()
    rows = [
        Row(name="vitcop", found=vitcop_version(), purpose="everything"),
        Row(
            name="Python",
            found=platform.python_version() if sys.version_info >= (3, 11) else None,
            purpose="everything",
            remedy="install Python 3.11 or later",
            required=True,
        ),
        _package("torch", "calibrate, export, verify", "pip install torch", required=True),
        _package("transformers", "calibrate, export, verify", "pip install transformers", required=True),
        _package("onnx", "export", "pip install onnx", required=True),
        _package(
            "onnxruntime",
            "target onnxruntime",
            "pip install onnxruntime (or onnxruntime-gpu)",
            required=target in (None, "onnxruntime"),
        ),
        Row(
            name="providers",
            found=", ".join(providers) or None,
            purpose="target onnxruntime",
            remedy="pip install onnxruntime",
        ),
        Row(
            name="CUDA provider",
            found="CUDAExecutionProvider" if "CUDAExecutionProvider" in providers else None,
            purpose="target onnxruntime with device cuda",
            remedy="pip install onnxruntime-gpu in place of onnxruntime",
            required=target == "onnxruntime" and cuda,
        ),
        Row(
            name="GPU",
            found=_gpu(),
            purpose="device cuda, target tensorrt",
            remedy="needs an NVIDIA GPU and its driver",
            required=cuda,
        ),
        Row(
            name="nvcc",
            found=_nvcc(),
            purpose="building the CUDA kernels and the TensorRT plugin",
            remedy="install the CUDA toolkit",
            required=target == "tensorrt",
        ),
        Row(
            name="CUDA kernels",
            found="built" if library_path().exists() else None,
            purpose="fast token dropping in PyTorch on a GPU",
            remedy="make kernels",
        ),
        _package("tensorrt", "target tensorrt", "pip install 'vitcop[tensorrt]'", required=target == "tensorrt"),
        _package(
            "tensorrt-llm",
            "target tensorrt-llm",
            "pip install 'vitcop[tensorrt-llm]'",
            required=target == "tensorrt-llm",
        ),
        _package("flash-attn", "--attn flash_attention_2", "pip install 'vitcop[flash-attn]'"),
        Row(
            name="free disk",
            found=size_text(shutil.disk_usage(place).free),
            purpose="bundles with copied weights, engines",
        ),
        Row(name="free memory", found=_memory(), purpose="loading the model"),
    ]
    if target is not None:
        rows.insert(1, _target(target))
    return Examination(rows=tuple(rows if recipe else [_unrequired(row) for row in rows]))


def _unrequired(row: Row) -> Row:
    return Row(**{**asdict(row), "required": False})


def _target(target: str) -> Row:
    """Whether this version of vitcop can build for a recipe's target at all, whatever the machine has."""
    return Row(
        name=f"target {target}",
        found="available" if target in target_names() else None,
        purpose="build.target of the recipe",
        remedy=f"this version of vitcop cannot build for it; available: {', '.join(target_names())}",
        required=True,
    )


def _package(name: str, purpose: str, remedy: str, *, required: bool = False) -> Row:
    version = version_of(name)
    return Row(
        name=name,
        found=None if version == NOT_INSTALLED else version,
        purpose=purpose,
        remedy=remedy,
        required=required,
    )


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _gpu() -> str | None:
    """Names of the GPUs as the driver tells them; needs neither torch nor CUDA."""
    if shutil.which("nvidia-smi") is None:
        return None
    return _first_line(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])


def _nvcc() -> str | None:
    if shutil.which("nvcc") is None:
        return None
    lines = _output(["nvcc", "--version"]).splitlines()
    return next((line.strip() for line in lines if "release" in line), None)


def _first_line(command: list[str]) -> str | None:
    lines = _output(command).strip().splitlines()
    return lines[0] if lines else None


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


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
