"""Hashes of files and of JSON values; file names that may stand in a bundle."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vitcop.plugins.errors import InputError

ALLOWED_SUFFIXES = (".onnx", ".safetensors", ".json", ".jinja", ".txt", ".model")
"""Graphs, weights, settings, chat templates, vocabularies, sentencepiece models: nothing to unpickle or import."""

_CHUNK = 1 << 22


def sha256_of_file(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


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
