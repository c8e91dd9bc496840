"""SHA-256 of JSON values, files and folders; gigabytes are read once a machine.

What was read of a large file is remembered in the user's cache folder (`$XDG_CACHE_HOME/vitcop/digests`, else
`~/.cache/vitcop/digests`) under its real path, size, times of change and inode. A change that leaves all of these as
they were is not seen; `sha256_of_file` always reads.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.partial import PREFIX
from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.core.store import write_atomically
from vitcop.calibrate.core.strict_json import read_object, to_json
from vitcop.plugins.errors import InputError

LARGE = 1 << 20
"""Bytes from which a file is remembered."""

_PIECE = 1 << 26
"""Bytes of one step of progress."""

_CHUNK = 1 << 22
_RACY_NS = 2_000_000_000
"""A file that changed this lately is not remembered: a second change could leave the same times."""

_remembered: dict[Path, dict[str, Any]] = {}
"""Of this process, for the case that the cache folder cannot be written."""


def sha256_of_json(value: Any) -> str:
    """sha256 of a JSON value in its one canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(*parts: Any) -> str:
    """A short hash of JSON values: equal inputs, equal key."""
    return sha256_of_json(parts)[:32]


def sha256_of_file(path: Path, progress: Progress | None = None) -> str:
    """sha256 of a file, read in pieces; one step of progress each 64 MiB."""
    digest, left = hashlib.sha256(), _PIECE
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            left -= len(chunk)
            if left <= 0 and progress is not None:
                progress.advance()
                left = _PIECE
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """sha256 of a file, from the cache where it is known there."""
    return known_digests([path])[0]


def known_digests(paths: Sequence[Path], progress: Progress | None = None) -> list[str]:
    """sha256 of each file, from the cache where it is known there; the others are read, with progress."""
    progress = progress or NoProgress()
    found = {path: _recall(path) for path in paths}
    unknown = [path for path, digest in found.items() if digest is None]
    if pieces := sum(path.stat().st_size // _PIECE for path in unknown):
        progress.start(pieces, "reading files for their sha256")
    for path in unknown:
        stamp = _stamp(path)
        found[path] = digest = sha256_of_file(path, progress)
        _remember(path, stamp, digest)
    return [str(found[path]) for path in paths]


def known_path_digest(path: Path, *, without: tuple[str, ...] = ()) -> str | None:
    """Digest of a file, or of a folder's names and contents (leaving out `without`); None where nothing is."""
    if path.is_file():
        return known_sha256(path)
    if not path.is_dir():
        return None
    names = sorted(
        item.relative_to(path).as_posix()
        for item in path.rglob("*")
        if item.is_file() and item.relative_to(path).parts[0] not in without and not item.name.startswith(PREFIX)
    )
    return sha256_of_json(dict(zip(names, known_digests([path / name for name in names]), strict=True)))


def hash_in_background(paths: Iterable[Path]) -> threading.Thread:
    """Start `known_sha256` of some files on another core; after `join()` they are known.

    Hashing lets go of Python's lock, so work that has one thread, such as tracing, goes on beside it. A file that
    cannot be read is passed over: whoever needs its digest is told then. The thread never keeps the process alive.
    """

    def run() -> None:
        for path in files:
            with contextlib.suppress(OSError):
                known_sha256(path)

    files = list(paths)
    thread = threading.Thread(target=run, name="hash weights", daemon=True)
    thread.start()
    return thread


def _cache_file(real: Path) -> Path | None:
    """None for a user without a home, such as containers run with any number."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "vitcop" / "digests" / f"{sha256_of_json(str(real))[:32]}.json"


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _recall(path: Path) -> str | None:
    real, stamp = path.resolve(), _stamp(path)
    if stamp[0] < LARGE:
        return None
    entry, file = _remembered.get(real), _cache_file(real)
    if entry is None:
        if file is None:
            return None
        try:
            entry = read_object(file)
        except InputError:
            return None
    is_it = entry.get("path") == str(real) and entry.get("stamp") == stamp
    return entry.get("sha256") if is_it else None


def _remember(path: Path, stamp: list[int], digest: str) -> None:
    real = path.resolve()
    if stamp[0] < LARGE or time.time_ns() - max(stamp[1:3]) <= _RACY_NS:
        return
    _remembered[real] = {"path": str(real), "stamp": stamp, "sha256": digest}
    if (file := _cache_file(real)) is not None:
        with contextlib.suppress(OSError):
            write_atomically(file, to_json(_remembered[real]).encode())
