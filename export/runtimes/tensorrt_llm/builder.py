"""Packaging a bundle for TensorRT-LLM: `engines/tensorrt-llm/<key>/trtllm/`, which appears whole or not at all.

The vision graph of the equivalent schedule is another one than the bundle's, so it is exported anew, from the model
folder that the bundle names.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.digests import known_sha256, sha256_of_file, sha256_of_json
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.engine_folder import EngineFolder, read_json
from vitcop.export.runtimes.tensorrt_llm.equivalent import VisionSide
from vitcop.export.runtimes.tensorrt_llm.families import stock_of
from vitcop.export.runtimes.tensorrt_llm.host_sources import host_digests
from vitcop.export.runtimes.tensorrt_llm.manifest import SCHEDULE_FILE, manifest_of, report_lines
from vitcop.export.runtimes.tensorrt_llm.options import TensorRTLLMOptions
from vitcop.export.runtimes.tensorrt_llm.packages import MODEL, VISION, write_model_package, write_vision_package
from vitcop.export.runtimes.tensorrt_llm.plan import equivalent_of
from vitcop.export.runtimes.tensorrt_llm.vision_graph import export_vision
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.families import Family

TARGET_NAME = "tensorrt-llm"
PACKAGE = "trtllm"
MANIFEST = "manifest.json"


def build(bundle: Bundle, options: TensorRTLLMOptions | None = None) -> EngineInfo:
    """Write the package of a bundle; the same inputs reuse it.

    Raises InputError where the schedule drops nothing, and where the model folder is not there or is another one.
    """
    from vitcop.calibrate.models.families import family_of
    from vitcop.calibrate.models.loading import load_config

    options = options or TensorRTLLMOptions()
    side = equivalent_of(bundle)
    family = family_of(load_config(bundle.path))
    place = EngineFolder(bundle, TARGET_NAME, _inputs(bundle, family))
    there = place.existing(f"reused package {place.key}: schedule, weights and versions are the same")
    damaged = None if there is None else damage_of(place.path / PACKAGE)
    if there is not None and damaged is None:
        return there
    checkpoint = _checkpoint(bundle, options)
    changed = sum(stage.honoured != "exactly" for stage in side.report)
    reason = f"packaged {place.key}: {len(side.report) - changed} stages as scheduled, {changed} otherwise"
    if damaged is not None:
        reason += f"; the package that was there is damaged: {damaged}"
    with place.staging() as staging:
        _write(staging / PACKAGE, side, family, checkpoint, bundle)
        return place.finish(staging, {"report": report_lines(side)}, reason)


def _write(folder: Path, side: VisionSide, family: "Family", checkpoint: "Checkpoint", bundle: Bundle) -> None:
    vision = folder / VISION
    vision.mkdir(parents=True)
    dtype = export_vision(checkpoint, side, vision)
    write_vision_package(side, family, bundle.processor_folder, vision)
    if stock_of(bundle.manifest.family).package:
        write_model_package(family, folder / MODEL)
    if side.merge is None:
        (folder / SCHEDULE_FILE).write_text(side.schedule.to_json(), encoding="utf-8")
    language_model = family.config.text_config.model_type
    manifest = manifest_of(side, bundle.manifest, dtype=dtype, language_model=language_model, folder=folder)
    (folder / MANIFEST).write_text(_json(manifest), encoding="utf-8")


def damage_of(folder: Path) -> str | None:
    """What is wrong with a package, by existence and size of the files in its manifest; None where nothing is."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), list):
        return f"{MANIFEST} cannot be read"
    for record in manifest["files"]:
        path = folder / record["name"]
        if not path.is_file():
            return f"{record['name']} is missing"
        if path.stat().st_size != record["size"]:
            return f"{record['name']} has {path.stat().st_size} bytes, not {record['size']}"
    return None


def _checkpoint(bundle: Bundle, options: TensorRTLLMOptions) -> "Checkpoint":
    """The model folder, held against what the bundle was made of."""
    from vitcop.calibrate.models.checkpoint import Checkpoint

    folder = Path(options.model) if options.model else bundle.weights_folder
    way = "name the model folder with --option model=DIR"
    try:
        checkpoint = Checkpoint.open(folder)
    except InputError as error:
        raise InputError(f"{error}; the vision graph is exported from the model folder: {way}") from None
    if checkpoint.config_hash != bundle.manifest.config_hash:
        raise InputError(f"{folder}: not the model of {bundle.path} (another config.json); {way}")
    if options.model:
        for record in bundle.manifest.weights.files:
            if record.name not in checkpoint.shards or known_sha256(folder / record.name) != record.sha256:
                raise InputError(f"{folder / record.name}: not the weights of {bundle.path}; {way}")
    return checkpoint


def _inputs(bundle: Bundle, family: "Family") -> dict[str, Any]:
    """Everything that the package follows from."""
    own = sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".json"))
    sources = {path.relative_to(Path(__file__).parent).as_posix(): sha256_of_file(path) for path in own}
    return {
        "config": bundle.manifest.config_hash,
        "schedule": bundle.manifest.schedule_hash,
        "weights": {record.name: record.sha256 for record in bundle.manifest.weights.files},
        "sources": sha256_of_json(sources | host_digests(type(family).__module__)),
        "versions": installed_versions(("vitcop", "torch", "transformers", "onnx", "onnxscript")),
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
