"""engine.json: what engines were built from and for, and whether this machine may run them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import sha256_of_file
from vitcop.calibrate.core.strict_json import read_text, versioned
from vitcop.export.runtimes.engine_folder import SCHEMA_VERSION, SIDECAR
from vitcop.export.runtimes.tensorrt.installation import driver_version, load_tensorrt, need_gpu, version_tuple
from vitcop.plugins.errors import InputError

_AMPERE = (8, 0)


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What an engine depends on beside its inputs.

    Args:
        tensorrt: version, as "11.4.0.106".
        cuda: version of the CUDA runtime that torch brings, as "13.0".
        driver: version of the NVIDIA driver, as "580.65.06"; "unknown" where nvidia-smi is missing.
        sm: compute capability, as "9.0".
        plugin_sha256: hash of the plugin library, or None where no graph needs it.
    """

    tensorrt: str
    cuda: str
    driver: str
    sm: str
    plugin_sha256: str | None

    @classmethod
    def here(cls, plugin: Path | None) -> "MachineFacts":
        """Of this machine. Raises MissingError where TensorRT or the GPU is missing."""
        version, torch = load_tensorrt(), need_gpu()
        major, minor = torch.cuda.get_device_capability()
        return cls(
            tensorrt=version,
            cuda=str(torch.version.cuda),
            driver=driver_version(),
            sm=f"{major}.{minor}",
            plugin_sha256=sha256_of_file(plugin) if plugin is not None else None,
        )


def sidecar_details(
    machine: MachineFacts, *, schedule: dict[str, Any], graphs: dict[str, Any], kv: dict[str, Any]
) -> dict[str, Any]:
    """What engine.json says beside the inputs (options, the graphs' own profiles and hashes are among those).

    Args:
        schedule: as in schedule.json; the inputs have its hash.
        graphs: for each graph its plan file, sha256, plugin layers, inputs and outputs, and the profile it was really
            built with (a decode engine with caches in place has other inputs than its graph).
        kv: form of the caches, their capacities and which output shares the memory of which input.
    """
    return {"machine": asdict(machine), "schedule": schedule, "graphs": graphs, "kv_cache": kv}


def read_sidecar(folder: Path) -> dict[str, Any]:
    """engine.json of a built engine. Raises InputError where it is missing, broken or of an unknown schema."""
    path = folder / SIDECAR
    try:
        data = versioned(read_text(path), str(path), SCHEMA_VERSION)
    except InputError as error:
        raise InputError(f"{error}; build the engine again") from None
    if data.get("target") != "tensorrt":
        raise InputError(f"{path}: not a sidecar of a TensorRT engine; build the engine again")
    return data


def differences(sidecar: dict[str, Any], here: MachineFacts) -> list[str]:
    """What keeps engines from running on a machine, a line each; empty where they fit."""
    built = MachineFacts(**sidecar["machine"])
    options = sidecar["inputs"]["options"]
    found = []
    if not _same_tensorrt(built.tensorrt, here.tensorrt, options["version_compatible"]):
        hint = "" if options["version_compatible"] else " (build with version_compatible=true to allow newer minors)"
        found.append(_line("TensorRT", built.tensorrt, here.tensorrt) + hint)
    if version_tuple(built.cuda)[:1] != version_tuple(here.cuda)[:1]:
        found.append(_line("CUDA", built.cuda, here.cuda))
    if version_tuple(here.driver) and version_tuple(here.driver) < version_tuple(built.driver):
        found.append(_line("driver", built.driver, here.driver) + ", which is older")
    if not _same_sm(built.sm, here.sm, options["hardware_compatibility"]):
        found.append(_line("compute capability (SM)", built.sm, here.sm))
    plugin = built.plugin_sha256
    if plugin is not None and not options["serialize_plugin"] and plugin != here.plugin_sha256:
        ours = here.plugin_sha256[:12] if here.plugin_sha256 else "no library"
        found.append(_line("plugin library", f"sha256 {plugin[:12]}…", ours))
    return found


def check_machine(sidecar: dict[str, Any], here: MachineFacts, folder: Path) -> None:
    """Raises InputError that says what differs between an engine and this machine."""
    found = differences(sidecar, here)
    if found:
        raise InputError(
            f"{folder}: the engine was not built for this machine: {'; '.join(found)}. Build it again here: "
            "vitcop build … --target tensorrt"
        )


def check_plans(sidecar: dict[str, Any], folder: Path) -> None:
    """Raises InputError where a plan file is missing or not the one that was built."""
    for graph in sidecar["graphs"].values():
        path = folder / graph["plan"]
        if not path.is_file() or path.is_symlink():
            raise InputError(f"{path}: missing, or not a plain file; build the engine again")
        if sha256_of_file(path) != graph["sha256"]:
            raise InputError(f"{path}: changed since the build (its sha256 is another); build the engine again")


def _line(what: str, built: str, here: str) -> str:
    return f"{what}: built with {built}, here {here}"


def _same_tensorrt(built: str, here: str, compatible: bool) -> bool:
    if not compatible:
        return built == here
    old, new = version_tuple(built), version_tuple(here)
    return old[:1] == new[:1] and new >= old


def _same_sm(built: str, here: str, compatibility: str) -> bool:
    if compatibility == "ampere_plus":
        return min(version_tuple(built), version_tuple(here)) >= _AMPERE
    return built == here
