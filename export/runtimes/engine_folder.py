"""Where a built engine lies: `engines/<target>/<key>/` in the bundle, with the sidecar engine.json that says what it
was made of. The folder appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import sha256_of_json
from vitcop.calibrate.core.strict_json import read_object
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.base import EngineInfo
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

SIDECAR = "engine.json"
SCHEMA_VERSION = 1
_KEY_LENGTH = 16


class EngineFolder:
    """The place of one engine.

    Args:
        bundle: an opened bundle.
        target: name of the target.
        inputs: plain data, all that the engine depends on beside the ops' revisions; the key is its hash.
    """

    def __init__(self, bundle: Bundle, target: str, inputs: dict[str, Any]) -> None:
        self.target, self.inputs = target, {**inputs, "op_revisions": REVISIONS}
        self.key = sha256_of_json(self.inputs)[:_KEY_LENGTH]
        self.home = bundle.engines_folder / target
        self.path = self.home / self.key

    def existing(self, reason: str) -> EngineInfo | None:
        """The engine, where one of these inputs is there already."""
        there = read_json(self.path / SIDECAR)
        return self._info(there, reason, reused=True) if there and there.get("inputs") == self.inputs else None

    def why(self) -> str:
        """Why an engine is built: what differs from those that are there."""
        others = [found for path in sorted(self.home.glob(f"[!.]*/{SIDECAR}")) if (found := read_json(path))]
        differing = [
            [name for name in self.inputs if other.get("inputs", {}).get(name) != self.inputs[name]] for other in others
        ]
        if not differing:
            return "built: no engine of this target was there"
        fewest = min(differing, key=len)
        return f"built: {', '.join(fewest) or SIDECAR} differ from the engines that were there"

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder under a temporary name, which is removed afterwards unless `finish` has moved it."""
        folder = self.home / f".{self.key}.partial-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, staging: Path, details: dict[str, Any], reason: str) -> EngineInfo:
        """Add the sidecar (schema version, target, key, inputs, and the target's own details) and put the folder in its
        place."""
        sidecar = {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "key": self.key,
            "inputs": self.inputs,
            **details,
        }
        (staging / SIDECAR).write_text(json.dumps(sidecar, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            os.rename(staging, self.path)
        except OSError:
            # Another build of the same key may have been faster; its engine is as good.
            if self.existing(reason) is None:
                raise
        return self._info(sidecar, reason, reused=False)

    def _info(self, sidecar: dict[str, Any], reason: str, *, reused: bool) -> EngineInfo:
        return EngineInfo(
            target=self.target, key=self.key, path=self.path, reused=reused, reason=reason, sidecar=sidecar
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """The contents of a sidecar, or None where there is none that can be read."""
    try:
        return read_object(path)
    except InputError:
        return None
