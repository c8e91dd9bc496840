"""What there is of TensorRT: Python bindings, the full library, the plugin. Nothing of it is loaded in this process."""

import ctypes.util
import re
from importlib.util import find_spec
from pathlib import Path

from vitcop.export.bundle.versions import NOT_INSTALLED, version_of
from vitcop.pipeline.doctor.shared_library import load
from vitcop.plugins.errors import MissingError
from vitcop.plugins.tensorrt.paths import plugin_path, plugin_sha256

OLDEST = (10, 15)
"""The oldest TensorRT that the target is written for: operators of the graphs that came with 10.15."""

ENTRY_POINTS = ("getCreators", "setLoggerFinder")
"""What a plugin library exports, and all that TensorRT's registry asks of it."""

_BINDINGS = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt")
_LEAN = ("tensorrt-lean-cu13-libs", "tensorrt-lean-cu12-libs")
_HASH_LENGTH = 12


def bindings() -> tuple[str | None, str]:
    """(version of the Python bindings or None, what is wrong with those that are there or "")."""
    for name in _BINDINGS:
        version = version_of(name)
        if version != NOT_INSTALLED:
            return _new_enough(version, tuple(int(part) for part in re.findall(r"\d+", version)[:2]))
    if find_spec("tensorrt") is not None:
        return "there (no version recorded)", ""
    return None, ""


def libraries() -> tuple[str | None, str]:
    """(version and place of the full library or None, what is wrong with what is there or "")."""
    troubles = []
    for place in _places():
        loaded = load(place, "createInferBuilder_INTERNAL", number_function="getInferLibVersion")
        if loaded.error is not None or loaded.number is None:
            troubles.append(f"{place}: {loaded.error}")
            continue
        # major · 10000 + minor · 100 + patch, since TensorRT 10.
        version = (loaded.number // 10_000, loaded.number // 100 % 100, loaded.number % 100)
        found, trouble = _new_enough(f"{'.'.join(map(str, version))} ({place})", version[:2])
        if found is not None:
            return found, ""
        troubles.append(trouble)
    if troubles:
        return None, troubles[0]
    lean = [f"{name} {version_of(name)}" for name in _LEAN if version_of(name) != NOT_INSTALLED]
    return None, f"{lean[0]} is there, but it only runs engines" if lean else ""


def plugin() -> tuple[str | None, str]:
    """(hash and place of a plugin library that loads, or None; what is wrong with one that does not, or "")."""
    try:
        path = plugin_path()
    except MissingError as error:
        return None, str(error)
    if path is None:
        return None, ""
    loaded = load(path, *ENTRY_POINTS)
    if loaded.error is not None:
        return None, f"{path}: {loaded.error}"
    return f"sha256 {plugin_sha256(path)[:_HASH_LENGTH]}, loads ({path})", ""


def _new_enough(found: str, version: tuple[int, ...]) -> tuple[str | None, str]:
    if version < OLDEST:
        return None, f"{found} is older than {OLDEST[0]}.{OLDEST[1]}"
    return found, ""


def _places() -> list[str]:
    """Where the full library may lie: in the wheel's package, or where the system's loader finds it."""
    spec = find_spec("tensorrt_libs")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    in_wheel = [str(path) for folder in folders for path in sorted(folder.glob("libnvinfer.so.*"))]
    known = ctypes.util.find_library("nvinfer")
    return in_wheel + ([known] if known else [])
