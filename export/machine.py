"""What a measurement ran on: enough to judge a number, nothing that names a machine or a user."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

from vitcop.export.bundle.versions import installed_versions
from vitcop.export.programs import output

MEASURED_PACKAGES = ("vitcop", "torch", "transformers", "onnx", "onnxruntime", "tensorrt", "numpy")


def machine_facts() -> dict[str, Any]:
    """CPU model, usable cores, memory in bytes, GPUs, operating system, and versions. No host name, no paths."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": gpus(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed_versions(MEASURED_PACKAGES),
    }


def gpus() -> list[str]:
    """Name, compute capability and driver of each NVIDIA GPU, as "NVIDIA H200, 9.0, 580.65.06"."""
    lines = output("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader").splitlines()
    return [", ".join(cell.strip() for cell in line.split(",")) for line in lines if line.strip()]


def peak_memory_bytes() -> int | None:
    """Largest resident size that this process has had, or None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
