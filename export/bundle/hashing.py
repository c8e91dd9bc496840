"""Hashes of files and of JSON values; file names that may stand in a bundle."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitcop.plugins.errors import InputError

ALLOWED_SUFFIXES = (".onnx", ".safetensors", ".json", ".jinja", ".txt", ".model")
"""Graphs, weights, settings, chat templates, vocabularies, sentencepiece models: nothing to unpickle or import."""

_CHUNK = 1 << 22
_RACY_NS = 2_000_000_000
_remembered: dict[str, tuple[tuple[int, ...], str]] = {}


def sha256_of_file(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_weights(path: Path) -> str:
    """sha256 of a file of maybe many gigabytes, read once a process as long as size, times and inode stay the same.

    A file that changed within the last two seconds is never remembered: a second change could leave the same times.
    """
    path = Path(path).resolve()
    state = path.stat()
    stamp = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    known = _remembered.get(str(path))
    if known is not None and known[0] == stamp:
        return known[1]
    found = sha256_of_file(path)
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _RACY_NS:
        _remembered[str(path)] = (stamp, found)
    return found


def hash_in_background(paths: Iterable[Path]) -> threading.Thread:
    """Start `sha256_of_weights` of some files on another core; after `join()` it remembers them.

    Hashing lets go of Python's lock, so work that has one thread, such as tracing, goes on beside it. A file that
    cannot be read is passed over: whoever needs its hash is told then. The thread never keeps the process alive.
    """

    def run() -> None:
        for path in files:
            with contextlib.suppress(OSError):
                sha256_of_weights(path)

    files = list(paths)
    thread = threading.Thread(target=run, name="hash weights", daemon=True)
    thread.start()
    return thread


def sha256_of_json(value: Any) -> str:
    """sha256 of a JSON value in its one canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_file_name(name: Any, where: str) -> str:
    """Returns `name` if it is a plain file name of a type that a bundle may hold. Raises InputError otherwise."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: expected a file name, found {name!r}")
    if "/" in name or "\\" in name or ":" in name or name.startswith(".") or not name.isprintable():
        raise InputError(f"{where}: {name!r} is not a plain file name inside the folder; export the bundle again")
    if not name.endswith(ALLOWED_SUFFIXES):
        raise InputError(
            f"{where}: {name!r} is of a type that a bundle never holds (allowed: {', '.join(ALLOWED_SUFFIXES)})"
        )
    return name
