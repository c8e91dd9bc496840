"""Versions of what decides a stage's output, without importing any of it."""

from functools import cache
from importlib import metadata


@cache
def version_of(package: str) -> str:
    """The installed version of a distribution, "absent" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def vitcop_version() -> str:
    """Our own version; "0+unknown" where the source tree runs without being installed."""
    version = version_of("vitcop")
    return "0+unknown" if version == "absent" else version


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of vitcop and of `packages`, by name."""
    return {"vitcop": vitcop_version(), **{name: version_of(name) for name in packages}}
