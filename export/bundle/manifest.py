"""manifest.json: what a bundle is, and its files with their hashes. Read strictly, written reproducibly."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from vitcop.calibrate.core.digests import sha256_of_json
from vitcop.calibrate.core.strict_json import naming, parse, to_json
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.architecture import DTYPES, INPUT_KINDS, Architecture
from vitcop.export.bundle.file_names import check_file_name
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
REQUIRED_FILES = ("schedule.json", "vision.onnx", "prefill.onnx", "decode.onnx")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file: plain name, size in bytes, sha256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights lie.

    Args:
        mode: "referenced" (the checkpoint's own shards, in place) or "copied" (the shards are in the bundle).
        folder: absolute path of the checkpoint folder when referenced, "." when copied.
        files: the shards that the graphs read.
    """

    mode: str
    folder: str
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a bundle.

    Args:
        model_id, config_hash, family: which model was exported.
        architecture: facts that running without torch needs.
        schedule_hash: `schedule_hash` of the bundle's schedule.json.
        files: every file of the bundle except the manifest, copied weights and engines/.
        weights: the weight shards.
        op_revisions: of each vitcop op in the graphs, by its ONNX op type.
        versions: of vitcop, torch, transformers and onnx that made the bundle.
        provenance: free facts about the export.
    """

    model_id: str
    config_hash: str
    family: str
    architecture: Architecture
    schedule_hash: str
    files: tuple[FileRecord, ...]
    weights: Weights
    op_revisions: dict[str, int]
    versions: dict[str, str]
    provenance: dict[str, Any]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of manifest.json: sorted keys, no timestamps, so that equal bundles are equal bytes."""
        return to_json(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_NAME) -> "Manifest":
        """Parse manifest.json. Raises InputError that names `source` and the field."""
        manifest = parse(cls, text, source, version=SCHEMA_VERSION, hint="export the bundle again")
        with naming(source):
            _check(manifest)
        return manifest


def schedule_hash(schedule: Schedule) -> str:
    """Hash of what a schedule decides; its provenance (how it was found) does not count."""
    data = dataclasses.asdict(schedule)
    del data["provenance"]
    return sha256_of_json(data)


def _check(manifest: Manifest) -> None:
    """What the types alone do not say."""
    records = [("files", record) for record in manifest.files] + [
        ("weights.files", record) for record in manifest.weights.files
    ]
    seen = set()
    for where, record in records:
        check_file_name(record.name, where)
        if record.name in seen or record.name == MANIFEST_NAME:
            raise InputError(f"{where}: {record.name!r} is listed twice or must not be listed")
        seen.add(record.name)
        if record.size < 0 or len(record.sha256) != 64 or set(record.sha256) - set("0123456789abcdef"):
            raise InputError(f"{where}: {record.name!r} has an impossible size or sha256")
        if (where == "weights.files") != record.name.endswith(".safetensors"):
            raise InputError(
                f"{where}: {record.name!r} does not belong there (weights are .safetensors files, and only they)"
            )
    listed = {record.name for record in manifest.files}
    for name in REQUIRED_FILES:
        if name not in listed:
            raise InputError(f"files: {name!r} is missing; export the bundle again")
    for op, revision in manifest.op_revisions.items():
        if revision != REVISIONS.get(op):
            raise InputError(
                f"op_revisions: the graphs hold revision {revision} of {op}, this vitcop has "
                f"{REVISIONS.get(op, 'no such op')}; export the bundle again"
            )
    weights = manifest.weights
    if weights.mode not in ("referenced", "copied"):
        raise InputError(f"weights.mode: {weights.mode!r} is not one of referenced, copied")
    if weights.mode == "copied" and weights.folder != ".":
        raise InputError(f"weights.folder: copied weights lie in the bundle itself ('.'), found {weights.folder!r}")
    if weights.mode == "referenced" and (not os.path.isabs(weights.folder) or ".." in weights.folder.split(os.sep)):
        raise InputError(f"weights.folder: expected an absolute path without '..', found {weights.folder!r}")
    facts = manifest.architecture
    if facts.dtype not in DTYPES:
        raise InputError(f"architecture.dtype: {facts.dtype!r} is not one of {', '.join(DTYPES)}")
    for name in (
        "num_layers",
        "num_visual",
        "hidden_size",
        "num_kv_heads",
        "head_dim",
        "vocab_size",
        "patches_per_token",
    ):
        if getattr(facts, name) < 1:
            raise InputError(f"architecture.{name}: expected a positive integer, found {getattr(facts, name)}")
    if facts.position_axes not in (1, 3):
        raise InputError(f"architecture.position_axes: {facts.position_axes} is not 1 or 3")
    for given in facts.vision_inputs:
        if given.kind not in INPUT_KINDS:
            raise InputError(
                f"architecture.vision_inputs: {given.name!r} is of kind {given.kind!r}, not one of "
                f"{', '.join(INPUT_KINDS)}"
            )
