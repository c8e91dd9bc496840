"""Finding the built engine of a bundle that this machine may run."""

from pathlib import Path
from typing import Any

from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.runtimes.engine_folder import SIDECAR
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.preparation import plugin_library
from vitcop.export.runtimes.tensorrt.sidecar import (
    MachineFacts,
    check_machine,
    check_plans,
    differences,
    read_sidecar,
)
from vitcop.plugins.errors import InputError


def find_engine(
    bundle: Bundle, options: TensorRtOptions, here: MachineFacts | None = None
) -> tuple[Path, dict[str, Any], Path | None]:
    """Folder and sidecar of the engine to run, and the plugin library where it needs one.

    Args:
        here: facts of this machine; asked of TensorRT and torch where None.

    Raises InputError where none is built, where none was built for this machine (saying what differs), or where
    several fit and the options do not tell which.
    """
    home = bundle.engines_folder / "tensorrt"
    built = _readable([path.parent for path in sorted(home.glob(f"[!.]*/{SIDECAR}"))])
    ours = {folder: sidecar for folder, sidecar in built.items() if _is_of(sidecar, bundle)}
    if not ours:
        stale = " that is there is of other graphs or weights" if built else " is built"
        raise InputError(f"{bundle.path}: no TensorRT engine{stale}; run: vitcop build {bundle.path} --target tensorrt")
    asked = options.asked_for()
    chosen = {folder: sidecar for folder, sidecar in ours.items() if _has(sidecar, asked)}
    if not chosen:
        given = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise InputError(f"{bundle.path}: no TensorRT engine is built with {given}; build one with the same options")
    plugin = plugin_library(any(sidecar["machine"]["plugin_sha256"] is not None for sidecar in chosen.values()))
    here = here or MachineFacts.here(plugin)
    fitting = {folder: sidecar for folder, sidecar in chosen.items() if not differences(sidecar, here)}
    if not fitting:
        folder, sidecar = next(iter(chosen.items()))
        check_machine(sidecar, here, folder)
    if len(fitting) > 1:
        told = " or ".join(_differing_options(list(fitting.values()))) or "NAME=VALUE"
        raise InputError(f"{bundle.path}: {len(fitting)} built engines fit; say which by --option {told}")
    folder, sidecar = next(iter(fitting.items()))
    check_plans(sidecar, folder)
    serialized = sidecar["inputs"]["options"]["serialize_plugin"]
    return folder, sidecar, None if serialized else plugin


def _readable(folders: list[Path]) -> dict[Path, dict[str, Any]]:
    """Sidecars of the folders that have one; a broken neighbour does not keep the others from running. Raises what the
    first says where none can be read."""
    found, refused = {}, []
    for folder in folders:
        try:
            found[folder] = read_sidecar(folder)
        except InputError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    return found


def _is_of(sidecar: dict[str, Any], bundle: Bundle) -> bool:
    inputs = sidecar["inputs"]
    weights = {record.name: record.sha256 for record in bundle.manifest.weights.files}
    graphs = {part: bundle.graph_hash(part) for part in GRAPHS}
    return (inputs["schedule"], inputs["graphs"], inputs["weights"]) == (bundle.manifest.schedule_hash, graphs, weights)


def _has(sidecar: dict[str, Any], asked: dict[str, Any]) -> bool:
    options = sidecar["inputs"]["options"]
    return all(options.get(name) == value for name, value in asked.items())


def _differing_options(sidecars: list[dict[str, Any]]) -> list[str]:
    first, *others = (sidecar["inputs"]["options"] for sidecar in sidecars)
    return sorted(name for name in first if any(other.get(name) != first[name] for other in others))
