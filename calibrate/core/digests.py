"""SHA-256 of files and folders, remembered by what the file system says of them, so that gigabytes are read once."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.partial import PREFIX, write_text
from vitcop.calibrate.core.strict_json import read_object
from vitcop.plugins.errors import InputError

_BLOCK_BYTES = 1 << 20
_RACY_NS = 2_000_000_000


def digest_of(data: Any) -> str:
    """SHA-256 of plain data, through its canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Digests:
    """Digests of files. What was hashed is remembered in `store` under (size, mtime, ctime, inode).

    A file that changed within the last two seconds is never remembered: a second change could leave the same times.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        try:
            self._known = {} if store is None else read_object(store)
        except InputError:
            self._known = {}

    def file(self, path: Path) -> str:
        """SHA-256 of a file's bytes."""
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        name = str(path.resolve())
        known = self._known.get(name)
        if known and known[:-1] == stamp:
            return known[-1]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _RACY_NS:
            self._known[name] = [*stamp, digest.hexdigest()]
        return digest.hexdigest()

    def path(self, path: Path, *, without: tuple[str, ...] = ()) -> str | None:
        """Digest of a file, or of a folder's names and contents (leaving out `without`); None where nothing is."""
        if path.is_file():
            return self.file(path)
        if not path.is_dir():
            return None
        names = sorted(
            item.relative_to(path).as_posix()
            for item in path.rglob("*")
            if item.is_file() and item.relative_to(path).parts[0] not in without and not item.name.startswith(PREFIX)
        )
        return digest_of({name: self.file(path / name) for name in names})

    def save(self) -> None:
        """Write what is remembered."""
        if self._store is not None:
            write_text(self._store, json.dumps(self._known, sort_keys=True))
