"""Results on disk under a key of their inputs, so that an interrupted search goes on where it stopped."""

import os
import tempfile
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.strict_json import from_json, to_json


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder and rename: a reader sees the old file or the new one, never
    half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.partial-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Store:
    """JSON values by key in one folder; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder is not None else None

    def get(self, key: str) -> Any | None:
        """The value, or None where there is none or its file cannot be read."""
        if self.folder is None:
            return None
        try:
            return from_json((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Keep a value, of which every number is finite."""
        if self.folder is not None:
            write_atomically(self.folder / f"{key}.json", to_json(value).encode())
