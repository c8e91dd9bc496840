"""Opening a bundle: nothing in it is used before the manifest and the files it lists have been checked."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitcop.calibrate.core.digests import known_digests, sha256_of_file
from vitcop.calibrate.core.progress import Progress
from vitcop.calibrate.models.checkpoint import read_header
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.contract import GRAPHS
from vitcop.export.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, schedule_hash
from vitcop.export.bundle.processor_files import is_processor_file
from vitcop.plugins.errors import InputError

CheckWeights = Literal["none", "size", "known", "sha256"]

_EXPORT_AGAIN = "export the bundle again"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked bundle.

    Args:
        path: the bundle's folder.
        manifest: its manifest.
        schedule: its schedule.
    """

    path: Path
    manifest: Manifest
    schedule: Schedule

    @classmethod
    def open(cls, path: Path, *, check_weights: CheckWeights = "known", progress: Progress | None = None) -> "Bundle":
        """Read and check a bundle.

        Args:
            check_weights: "none" (only the folder is looked for; for reading the schedule or a report on another
                machine), "size" (each shard exists, has the recorded size and a sound safetensors header), "known" (the
                default: its digest too, read once a machine and then taken from the cache of `core.digests`), "sha256"
                (read again: one to four seconds a gigabyte).
            progress: of reading weights.

        All other files are always hashed. Raises InputError that names the file and the way out.
        """
        path = Path(path)
        manifest_path = path / MANIFEST_NAME
        if manifest_path.is_symlink() or not manifest_path.is_file():
            raise InputError(f"{path}: not a vitcop bundle (no {MANIFEST_NAME} there)")
        try:
            text = manifest_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{manifest_path}: cannot be read ({error})") from None
        manifest = Manifest.from_json(text, source=str(manifest_path))
        for record in manifest.files:
            _check_file(path / record.name, record, hashed=True)
        _check_unlisted(path, manifest)
        schedule = Schedule.load(path / "schedule.json")
        if schedule_hash(schedule) != manifest.schedule_hash:
            raise InputError(
                f"{path / 'schedule.json'}: not the schedule that the graphs were made for; {_EXPORT_AGAIN}"
            )
        if schedule.num_layers != manifest.architecture.num_layers:
            raise InputError(
                f"{path}: the schedule is for {schedule.num_layers} layers, the model has "
                f"{manifest.architecture.num_layers}; {_EXPORT_AGAIN}"
            )
        bundle = cls(path=path, manifest=manifest, schedule=schedule)
        if check_weights != "none":
            bundle.check_weights(check_weights, progress)
        return bundle

    @property
    def weights_folder(self) -> Path:
        """The folder in which the weight shards lie."""
        return self.path if self.manifest.weights.mode == "copied" else Path(self.manifest.weights.folder)

    @property
    def processor_folder(self) -> Path:
        """The folder that `AutoProcessor.from_pretrained` reads."""
        return self.path

    @property
    def engines_folder(self) -> Path:
        """Where built engines lie: `<target>/<key>/` under it."""
        return self.path / "engines"

    def graph(self, part: str) -> Path:
        """The ONNX file of "vision", "prefill" or "decode"."""
        assert part in GRAPHS, part
        return self.path / f"{part}.onnx"

    def graph_hash(self, part: str) -> str:
        """sha256 of a graph's file."""
        return next(record.sha256 for record in self.manifest.files if record.name == self.graph(part).name)

    def check_weights(self, how: CheckWeights = "sha256", progress: Progress | None = None) -> None:
        """Check the weight shards, as in `open`. Raises InputError that names the shard."""
        referenced = self.manifest.weights.mode == "referenced"
        for record in self.manifest.weights.files:
            path = self.weights_folder / record.name
            if not path.is_file():
                way = "put the model folder back, or export with --copy-weights" if referenced else _EXPORT_AGAIN
                raise InputError(f"{path}: this weight file of the bundle is missing; {way}")
            _check_file(path, record, hashed=False, may_be_link=referenced)
            read_header(path)
        changed = () if how == "size" else self.changed_weights(read_again=how == "sha256", progress=progress)
        for name in changed:
            way = "put the old file back, or export the bundle again" if referenced else _EXPORT_AGAIN
            raise InputError(
                f"{self.weights_folder / name}: changed since the export (its sha256 is not the one in the manifest); "
                f"{way}"
            )

    def changed_weights(self, *, read_again: bool = True, progress: Progress | None = None) -> tuple[str, ...]:
        """Names of the weight shards that no longer have the bytes of the export; without `read_again` by the digests
        that this machine knows."""
        records = self.manifest.weights.files
        paths = [self.weights_folder / record.name for record in records]
        found = list(map(sha256_of_file, paths)) if read_again else known_digests(paths, progress)
        return tuple(record.name for record, digest in zip(records, found, strict=True) if digest != record.sha256)


def _check_file(path: Path, record: FileRecord, *, hashed: bool, may_be_link: bool = False) -> None:
    # Shards of a Hugging Face cache are links into its blobs folder; in the bundle itself a link is never ours.
    if (path.is_symlink() and not may_be_link) or not path.is_file():
        raise InputError(f"{path}: missing, or not a plain file; {_EXPORT_AGAIN}")
    size = path.stat().st_size
    if size != record.size:
        raise InputError(
            f"{path}: changed since the export ({size} bytes, the manifest says {record.size}); {_EXPORT_AGAIN}"
        )
    if hashed and sha256_of_file(path) != record.sha256:
        raise InputError(
            f"{path}: changed since the export (its sha256 is not the one in the manifest); {_EXPORT_AGAIN}"
        )


def _check_unlisted(path: Path, manifest: Manifest) -> None:
    """A file that the processor or a runtime would read must be one that was hashed; engines are the one folder."""
    listed = {record.name for record in (*manifest.files, *manifest.weights.files)} | {MANIFEST_NAME}
    for name in sorted(os.listdir(path)):
        if name != "engines" and (path / name).is_dir():
            raise InputError(f"{path / name}: a bundle holds no folder but engines; remove it, or {_EXPORT_AGAIN}")
        if name not in listed and (
            is_processor_file(name) or name.endswith((".onnx", ".safetensors", ".py", ".bin", ".pt", ".pkl"))
        ):
            raise InputError(f"{path / name}: not listed in the manifest; remove it, or {_EXPORT_AGAIN}")
