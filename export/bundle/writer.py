"""Writing a bundle: everything happens in a staging folder beside the final one, which appears whole or not at all.

    with writing_bundle(out) as staging:
        ... put vision.onnx, prefill.onnx, decode.onnx and the processor's files into staging ...
        write_bundle(staging, out, schedule=..., architecture=..., ...)

A kill at any moment leaves either the old bundle, or the new one, or (between two renames) the old one under the
hidden name `.<name>.replaced`, which the next write puts back first. Staging folders carry the process id; the next
write removes those whose process no longer runs. Of two writes to one place at once the later fails with InputError.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import known_sha256, sha256_of_file
from vitcop.calibrate.core.processes import is_running
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.architecture import Architecture
from vitcop.export.bundle.file_names import check_file_name
from vitcop.export.bundle.manifest import MANIFEST_NAME, REQUIRED_FILES, FileRecord, Manifest, Weights, schedule_hash
from vitcop.export.bundle.versions import installed_versions
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

OTHER_PRODUCTS = ("engines", "verify.json", "bench.json", "cost.json", "report.html")
"""What vitcop itself may have put into a bundle later; replacing the bundle removes it, since it no longer holds."""

_DISK_MARGIN = 1 << 26
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT})
"""What a rename says where another process has renamed to or from the same place in the meantime."""


def check_destination(out: Path) -> None:
    """Raises InputError if `out` exists and is neither an empty folder nor a vitcop bundle without foreign files."""
    out = Path(out)
    if not (out.exists() or out.is_symlink()):
        return
    if out.is_symlink() or not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder; choose another output folder")
    found = {path.name for path in out.iterdir()}
    if not found:
        return
    known = _names_of_bundle(out)
    if known is None:
        raise InputError(f"{out}: is not empty and not a vitcop bundle; choose another output folder")
    foreign = sorted(found - known)
    if foreign:
        raise InputError(
            f"{out}: holds {foreign[0]!r}, which is not part of the bundle there; move it away or choose another "
            "output folder"
        )


@contextlib.contextmanager
def writing_bundle(out: Path) -> Iterator[Path]:
    """A staging folder beside `out`, gone afterwards unless `write_bundle` has renamed it.

    Raises InputError as `check_destination` does.
    """
    out = Path(os.path.abspath(out))
    _put_back(out)
    check_destination(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    staging = out.parent / f"{_staging_prefix(out)}{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_bundle(
    staging: Path,
    out: Path,
    *,
    schedule: Schedule,
    architecture: Architecture,
    family: str,
    model_id: str,
    config_hash: str,
    weights_folder: Path,
    shards: Sequence[str],
    ops: Iterable[str],
    copy_weights: bool = False,
    provenance: dict[str, Any] | None = None,
) -> Manifest:
    """Write schedule.json and manifest.json into `staging`, copy the shards if asked, and rename the folder to `out`.

    Args:
        staging: a folder beside `out` (from `writing_bundle`) that holds the three graphs and the processor's files.
        weights_folder: the checkpoint folder; `shards` are the names of its safetensors files that the graphs read.
        ops: the vitcop ops in the graphs, by their ONNX op types.
        copy_weights: make the bundle self-contained.

    Raises InputError for a file that a bundle may not hold, where the disk is too small for the copy, and where another
    process has written to `out` in the meantime.
    """
    staging, out, weights_folder = Path(staging), Path(os.path.abspath(out)), Path(os.path.abspath(weights_folder))
    (staging / "schedule.json").write_text(schedule.to_json(), encoding="utf-8")
    for name in REQUIRED_FILES:
        assert (staging / name).is_file(), f"{name} was not put into the staging folder"
    files = []
    for path in sorted(staging.iterdir()):
        check_file_name(path.name, "bundle")
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{path.name}: a bundle holds plain files only")
        files.append(_record(path))
    weights = (
        _copy_shards(weights_folder, shards, staging) if copy_weights else _refer_to_shards(weights_folder, shards)
    )
    manifest = Manifest(
        model_id=model_id,
        config_hash=config_hash,
        family=family,
        architecture=architecture,
        schedule_hash=schedule_hash(schedule),
        files=tuple(files),
        weights=weights,
        op_revisions={op: REVISIONS[op] for op in ops},
        versions=installed_versions(),
        provenance=dict(provenance or {}),
    )
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest, "a manifest that this version could not read back"
    (staging / MANIFEST_NAME).write_text(text, encoding="utf-8")
    _replace(staging, out)
    return manifest


def _record(path: Path, hashed: Callable[[Path], str] = sha256_of_file) -> FileRecord:
    return FileRecord(name=path.name, size=path.stat().st_size, sha256=hashed(path))


def _shard_paths(folder: Path, shards: Sequence[str]) -> list[Path]:
    paths = [folder / check_file_name(name, "weights") for name in sorted(set(shards))]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: this weight file is missing; complete the model folder")
    return paths


def _refer_to_shards(folder: Path, shards: Sequence[str]) -> Weights:
    records = tuple(_record(path, known_sha256) for path in _shard_paths(folder, shards))
    return Weights(mode="referenced", folder=str(folder), files=records)


def _copy_shards(folder: Path, shards: Sequence[str], staging: Path) -> Weights:
    paths = _shard_paths(folder, shards)
    needed, free = sum(path.stat().st_size for path in paths) + _DISK_MARGIN, shutil.disk_usage(staging).free
    if free < needed:
        raise InputError(
            f"no disk space: copying the weights needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free "
            "some or leave --copy-weights out"
        )
    for path in paths:
        shutil.copyfile(path, staging / path.name)
    return Weights(mode="copied", folder=".", files=tuple(_record(staging / path.name) for path in paths))


def _replace(staging: Path, out: Path) -> None:
    """Rename `staging` to `out`; an older bundle steps aside first and comes back if the rename fails."""
    check_destination(out)
    aside = _aside(out)
    try:
        if out.exists():
            os.rename(out, aside)
        try:
            os.rename(staging, out)
        except BaseException:
            _put_back(out)
            raise
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise InputError(
            f"{out}: another export writes to this folder at the same time; wait for it, or choose another output "
            "folder"
        ) from None
    shutil.rmtree(aside, ignore_errors=True)


def _staging_prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _remove_abandoned(out: Path) -> None:
    """Remove staging folders of `out` whose process was killed."""
    prefix = _staging_prefix(out)
    for name in os.listdir(out.parent):
        number = name.removeprefix(prefix)
        if name.startswith(prefix) and number.isdecimal() and not is_running(int(number)):
            shutil.rmtree(out.parent / name, ignore_errors=True)


def _aside(out: Path) -> Path:
    return out.parent / f".{out.name}.replaced"


def _put_back(out: Path) -> None:
    """Undo a replacement interrupted between its two renames; drop what one interrupted after them left."""
    aside = _aside(out)
    if aside.is_dir() and not out.exists():
        os.rename(aside, out)
    shutil.rmtree(aside, ignore_errors=True)


def _names_of_bundle(folder: Path) -> set[str] | None:
    """Names that belong to the bundle in `folder`; None where its manifest is not ours (of any version)."""
    try:
        data = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        weights = data["weights"]["files"] if data["weights"]["mode"] == "copied" else []
        assert isinstance(data["schema_version"], int) and isinstance(data["schedule_hash"], str)
        return {record["name"] for record in data["files"] + weights} | {MANIFEST_NAME, *OTHER_PRODUCTS}
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None
