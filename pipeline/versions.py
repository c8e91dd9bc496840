"""Versions of what decides a stage's output, without importing any of it."""

import hashlib
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from vitcop.plugins.registry import REVISIONS
from vitcop.plugins.spec import DOMAIN

_PACKAGES = ("vitcop.calibrate", "vitcop.export", "vitcop.pipeline", "vitcop.plugins")
_SOURCES = (".css", ".j2", ".py")
_HASH_LENGTH = 12


def vitcop_version() -> str:
    """Our own version; "0+unknown" where the source tree runs without being installed."""
    try:
        return metadata.version("vitcop")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def stage_version() -> str:
    """Our own version as stage keys hold it: while vitcop is being developed, its sources are a part of it.

    An installed wheel is told by its version. An editable install, or a source tree, keeps one version however much
    changes, so a hash of its sources is added: "0.2.0+src.0123456789ab". Taken once a process.
    """
    version = vitcop_version()
    if not _is_development():
        return version
    return f"{version}{'.' if '+' in version else '+'}src.{source_hash(_folders())}"


def source_hash(folders: dict[str, Path]) -> str:
    """The first 12 hex digits of a sha256 over names and bytes of all source files below some folders, by name."""
    digest = hashlib.sha256()
    for package, folder in sorted(folders.items()):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in _SOURCES and path.is_file()):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{package}/{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:_HASH_LENGTH]


def versions_of(*packages: str) -> dict[str, str]:
    """Versions for a stage's key: of vitcop, its ops and `packages`, by name."""
    # `vitcop --version` needs this module, and importing a bundle's loads NumPy.
    from vitcop.export.bundle.versions import installed_versions

    ops = {f"{DOMAIN}::{op}": str(revision) for op, revision in REVISIONS.items()}
    return {"vitcop": stage_version(), **ops, **installed_versions(packages)}


def _is_development() -> bool:
    """Whether this very file is not one that an installed wheel put there."""
    try:
        wheel = metadata.distribution("vitcop").locate_file("vitcop/pipeline/versions.py")
    except metadata.PackageNotFoundError:
        return True
    return Path(str(wheel)).resolve() != Path(__file__).resolve()


def _folders() -> dict[str, Path]:
    specs = {package: find_spec(package) for package in _PACKAGES}
    return {name: Path(spec.origin).parent for name, spec in specs.items() if spec is not None and spec.origin}
