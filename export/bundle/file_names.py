"""File names that may stand in a bundle."""

from typing import Any

from vitcop.plugins.errors import InputError

ALLOWED_SUFFIXES = (".onnx", ".safetensors", ".json", ".jinja", ".txt", ".model")
"""Graphs, weights, settings, chat templates, vocabularies, sentencepiece models: nothing to unpickle or import."""


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
