"""Versions of what results depend on, without importing any of it."""

from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    found = {}
    for name in ("vitcop", "torch", "transformers", "numpy", "pillow", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
