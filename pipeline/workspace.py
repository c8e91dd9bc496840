"""The output folder of a run: whose it is, who may write to it now, and whether the disk has room."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitcop.calibrate.core.partial import discard_leftovers
from vitcop.pipeline.inspection import size_text
from vitcop.plugins.errors import InputError

MARKER = ".vitcop"
_SPARE_BYTES = 256 << 20


class Workspace:
    """`OUT`, with our own files under `OUT/.vitcop`."""

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self.private = self.out / MARKER

    def check(self) -> None:
        """Refuse a folder that is not ours; creates nothing. Raises InputError."""
        if not os.path.lexists(self.out):
            return
        if not self.out.is_dir():
            raise InputError(f"{self.out}: the output folder is a file")
        if not self.private.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out}: the output folder is not empty and was not made by vitcop; choose a new one")

    def check_space(self, needed_bytes: int) -> None:
        """Refuse a disk without room for `needed_bytes` and some spare. Raises InputError."""
        place = self.out.absolute()
        while not place.exists():
            place = place.parent
        free, needed = shutil.disk_usage(place).free, needed_bytes + _SPARE_BYTES
        if free < needed:
            raise InputError(f"{self.out}: no disk space: about {size_text(needed)} needed, {size_text(free)} free")

    @contextmanager
    def locked(self) -> Iterator[list[str]]:
        """Create the folder and hold it for this run; yields the names of leftovers that were removed.

        Raises InputError where another run holds it.
        """
        self.check()
        self.private.mkdir(parents=True, exist_ok=True)
        with (self.private / "lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise InputError(
                    f"{self.out}: another vitcop run (process {holder}) is working in this folder"
                ) from None
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            yield [name for folder in self._folders() for name in discard_leftovers(folder)]

    def _folders(self) -> list[Path]:
        """Where stages write under temporary names."""
        bundles = (self.out / "bundle", self.private / "unpruned")
        engines = [path for bundle in bundles for path in sorted((bundle / "engines").glob("*")) if path.is_dir()]
        return [self.out, self.private, self.private / "stages", self.private / "calibrate", *engines]
