"""Copying the files that the processor is built from, so that a bundle can prepare prompts on its own."""

import shutil
from pathlib import Path

from vitcop.calibrate.models.processor_files import is_processor_file
from vitcop.plugins.errors import InputError


def copy_processor_files(model_dir: Path, staging: Path) -> tuple[str, ...]:
    """Copy the processor's files from a model folder into a staging folder; returns their names, sorted.

    A link of the Hugging Face cache (`snapshots/<revision>/x` to `blobs/…` of the same repository) is followed; any
    other link that leaves the folder is refused. Raises InputError for such a link and where there is no config.json.
    """
    model_dir, names = Path(model_dir), []
    home = model_dir.resolve()
    for path in sorted(model_dir.iterdir()):
        if not is_processor_file(path.name):
            continue
        target = path.resolve()
        if path.is_symlink() and home not in target.parents and target.parent != _cache_blobs(home):
            raise InputError(f"{path}: a link that leaves the model folder is not followed; put the file itself there")
        if not target.is_file():
            raise InputError(f"{path}: not a readable file")
        shutil.copyfile(target, Path(staging) / path.name)
        names.append(path.name)
    if "config.json" not in names:
        raise InputError(f"{model_dir}: no config.json: not the folder of a Hugging Face model")
    return tuple(names)


def _cache_blobs(home: Path) -> Path | None:
    """The blobs folder that belongs to a snapshot folder of the Hugging Face cache."""
    return home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
