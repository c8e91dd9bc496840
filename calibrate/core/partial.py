"""Files and folders that appear whole or not at all: written under a temporary name beside it, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitcop.calibrate.core.processes import is_running

PREFIX = ".partial-"


def partial_path(final: Path) -> Path:
    """The temporary name of `final`, in the same folder (so that renaming stays inside one file system).

    It holds the process id: two processes that write one file each publish their own, whole.
    """
    return final.with_name(f"{PREFIX}{os.getpid()}-{final.name}")


def discard(path: Path) -> None:
    """Remove a file or folder where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(final: Path) -> None:
    """Give the temporary file or folder of `final` its name, replacing what stood there."""
    partial = partial_path(final)
    if final.is_dir() and not final.is_symlink():
        # A folder cannot be replaced in one step: the old one steps aside; the next run removes it if we die here.
        old = partial_path(final.with_name("old-" + final.name))
        discard(old)
        final.rename(old)
        partial.rename(final)
        discard(old)
    else:
        os.replace(partial, final)


def discard_leftovers(folder: Path) -> list[str]:
    """Remove what an interrupted run left under temporary names in `folder`; returns the names.

    Bundles are staged by `vitcop.export` under `.<name>.partial-<process>`.
    """
    names = sorted({path.name for pattern in (PREFIX + "*", ".*.partial-*") for path in folder.glob(pattern)})
    for name in names:
        discard(folder / name)
    return names


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `final` at the end, or vanishes where the block raises."""
    partial = partial_path(final)
    discard(partial)
    _discard_abandoned(final)
    try:
        yield partial
        publish(final)
    except BaseException:
        discard(partial)
        raise


def _discard_abandoned(final: Path) -> None:
    """Remove temporary files of `final` whose process was killed."""
    for name in os.listdir(final.parent) if final.parent.is_dir() else ():
        number, _, rest = name.removeprefix(PREFIX).partition("-")
        if name.startswith(PREFIX) and rest == final.name and number.isdecimal() and not is_running(int(number)):
            discard(final.with_name(name))


def write_text(final: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with written_whole(final) as partial:
        partial.write_bytes(text.encode("utf-8"))
