"""manifest.json: what a bundle is, and its files with their hashes. Read strictly, written reproducibly."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.architecture import DTYPES, INPUT_KINDS, Architecture
from vitcop.export.bundle.hashing import check_file_name, sha256_of_json
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
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of manifest.json: sorted keys, no timestamps, so that equal bundles are equal bytes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_NAME) -> "Manifest":
        """Parse manifest.json. Raises InputError that names `source` and the field."""
        try:
            data = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputError(f"{source}: not readable as JSON ({error})") from None
        if not isinstance(data, dict):
            raise InputError(f"{source}: expected a JSON object, found {type(data).__name__}")
        version = data.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise InputError(
                f"{source}: schema_version {version!r} is not known here (this vitcop reads {SCHEMA_VERSION}); "
                "export the bundle again"
            )
        manifest = _read(cls, data, source)
        _check(manifest, source)
        return manifest


def schedule_hash(schedule: Schedule) -> str:
    """Hash of what a schedule decides; its provenance (how it was found) does not count."""
    data = dataclasses.asdict(schedule)
    del data["provenance"]
    return sha256_of_json(data)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of the annotated type from plain JSON; errors say where a key is unknown, missing or of wrong type."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, found {type(value).__name__}")
        hints = get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise InputError(f"{where}: unknown key {key!r}")
        for key in hints:
            if key not in value:
                raise InputError(f"{where}: missing key {key!r}")
        return kind(**{key: _read(hint, value[key], f"{where}: {key}") for key, hint in hints.items()})
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, found {type(value).__name__}")
        return tuple(_read(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, found {type(value).__name__}")
        of = get_args(kind)[1]
        return {key: item if of is Any else _read(of, item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is not kind:
        raise InputError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _check(manifest: Manifest, source: str) -> None:
    """What the types alone do not say."""
    records = [("files", record) for record in manifest.files] + [
        ("weights.files", record) for record in manifest.weights.files
    ]
    seen = set()
    for where, record in records:
        check_file_name(record.name, f"{source}: {where}")
        if record.name in seen or record.name == MANIFEST_NAME:
            raise InputError(f"{source}: {where}: {record.name!r} is listed twice or must not be listed")
        seen.add(record.name)
        if record.size < 0 or len(record.sha256) != 64 or set(record.sha256) - set("0123456789abcdef"):
            raise InputError(f"{source}: {where}: {record.name!r} has an impossible size or sha256")
        if (where == "weights.files") != record.name.endswith(".safetensors"):
            raise InputError(
                f"{source}: {where}: {record.name!r} does not belong there (weights are .safetensors files, and "
                "only they)"
            )
    listed = {record.name for record in manifest.files}
    for name in REQUIRED_FILES:
        if name not in listed:
            raise InputError(f"{source}: files: {name!r} is missing; export the bundle again")
    for op, revision in manifest.op_revisions.items():
        if revision != REVISIONS.get(op):
            raise InputError(
                f"{source}: op_revisions: the graphs hold revision {revision} of {op}, this vitcop has "
                f"{REVISIONS.get(op, 'no such op')}; export the bundle again"
            )
    weights = manifest.weights
    if weights.mode not in ("referenced", "copied"):
        raise InputError(f"{source}: weights.mode: {weights.mode!r} is not one of referenced, copied")
    if weights.mode == "copied" and weights.folder != ".":
        raise InputError(
            f"{source}: weights.folder: copied weights lie in the bundle itself ('.'), found {weights.folder!r}"
        )
    if weights.mode == "referenced" and (not os.path.isabs(weights.folder) or ".." in weights.folder.split(os.sep)):
        raise InputError(f"{source}: weights.folder: expected an absolute path without '..', found {weights.folder!r}")
    facts = manifest.architecture
    if facts.dtype not in DTYPES:
        raise InputError(f"{source}: architecture.dtype: {facts.dtype!r} is not one of {', '.join(DTYPES)}")
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
            raise InputError(
                f"{source}: architecture.{name}: expected a positive integer, found {getattr(facts, name)}"
            )
    if facts.position_axes not in (1, 3):
        raise InputError(f"{source}: architecture.position_axes: {facts.position_axes} is not 1 or 3")
    for record in facts.vision_inputs:
        if record.kind not in INPUT_KINDS:
            raise InputError(
                f"{source}: architecture.vision_inputs: {record.name!r} is of kind {record.kind!r}, not one of "
                f"{', '.join(INPUT_KINDS)}"
            )
