"""What of TensorRT is on this machine. Nothing here is imported before it is asked for."""

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.export.programs import output
from vitcop.plugins.errors import MissingError

if TYPE_CHECKING:
    import tensorrt as trt

LEAST_VERSION = (10, 15)
"""The oldest TensorRT that reads RotaryEmbedding and RMSNormalization, and updates caches in place."""

INSTALL = "pip install tensorrt-cu13 (NVIDIA GPU, driver for CUDA 13), or tensorrt-cu12 for CUDA 12"


def load_tensorrt() -> str:
    """Import `tensorrt` and see that it is one that vitcop is written for; its version. Raises MissingError with what
    to install."""
    try:
        import tensorrt as trt
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise MissingError(
            f"target tensorrt needs the package tensorrt, which cannot be imported here ({reason}); {INSTALL}"
        ) from None
    # A folder of that name on Python's path is imported too, and has no version.
    version = getattr(trt, "__version__", "")
    if version_tuple(version) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise MissingError(f"target tensorrt needs TensorRT {least} or newer, found {version or 'none'}; {INSTALL}")
    return version


def version_tuple(version: str) -> tuple[int, ...]:
    """ "10.16.1.11" -> (10, 16, 1, 11); what is no number ends it."""
    parts: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def need_gpu() -> Any:
    """torch, where it sees an NVIDIA GPU. Raises MissingError elsewhere."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            "target tensorrt needs an NVIDIA GPU that torch can use; found none (a CPU build of torch sees none: "
            "install a CUDA build)"
        )
    return torch


def driver_version() -> str:
    """The NVIDIA driver's version as nvidia-smi tells it; "unknown" where there is none."""
    found = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split()
    return found[0] if found else "unknown"


def register_plugin(registry: "trt.IPluginRegistry", path: str) -> None:
    """Load the library of vitcop's plugins into TensorRT's registry. Loading it twice in a process does nothing.

    Raises MissingError where the library itself cannot be loaded (another CUDA, another machine).
    """
    try:
        # The registry only says None, for a library that is there already as for one that cannot be loaded.
        ctypes.CDLL(path)
    except OSError as error:
        raise MissingError(f"{path}: the plugin library cannot be loaded ({error}); make plugin") from None
    registry.load_library(path)


def make_runtime(logger: "trt.ILogger", built: dict, plugin: Path | None) -> "trt.Runtime":
    """TensorRT's runtime with the plugin library registered.

    Args:
        built: the options that the engines were built with.
        plugin: the library, or None where the engines need none or hold it.
    """
    import tensorrt as trt

    if plugin is not None:
        registry: trt.IPluginRegistry = trt.get_plugin_registry()
        register_plugin(registry, str(plugin))
    runtime = trt.Runtime(logger)
    # A serialized plugin, and the lean runtime inside a version-compatible engine, are code out of the engine's file.
    runtime.engine_host_code_allowed = bool(built["version_compatible"] or built["serialize_plugin"])
    return runtime
