"""Where the plugin library lies, and which one it is. Neither torch nor TensorRT."""

import hashlib
import os
from pathlib import Path

from vitcop.plugins.errors import MissingError

VARIABLE = "VITCOP_TENSORRT_PLUGIN"
"""The environment variable that names another library."""

DEFAULT_PATH = Path(__file__).parent / "libvitcop_tensorrt.so"
"""Where `make plugin` puts the library."""

REGISTERING_PATH = Path(__file__).parent / "libvitcop_tensorrt_registering.so"
"""Where it puts the one that registers itself as it is opened."""


def plugin_path() -> Path | None:
    """The library to load, absolute: what VITCOP_TENSORRT_PLUGIN names, else DEFAULT_PATH; None where none was built.

    Raises MissingError where the variable names a file that is not there.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named or DEFAULT_PATH).absolute()
    if path.is_file():
        return path
    if named:
        raise MissingError(f"{VARIABLE} names {path}, which is not there: correct it, or unset it and `make plugin`")
    return None


def plugin_sha256(path: Path) -> str:
    """What tells one build of the library from another: engines are built with one and must be run with the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
