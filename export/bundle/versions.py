"""Versions of installed packages, without importing them."""

from importlib.metadata import PackageNotFoundError, version

BUNDLE_PACKAGES = ("vitcop", "torch", "transformers", "onnx")
"""What shapes the bytes of a bundle."""


def installed_versions(packages: tuple[str, ...] = BUNDLE_PACKAGES) -> dict[str, str]:
    """Package to version; "not installed" where there is none (vitcop itself, when run from its source folder)."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
