"""Versions of installed packages, without importing them."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

BUNDLE_PACKAGES = ("vitcop", "torch", "transformers", "onnx")
"""What shapes the bytes of a bundle."""

NOT_INSTALLED = "not installed"

_VARIANTS = {"onnxruntime": ("onnxruntime-gpu",), "tensorrt": ("tensorrt-cu13", "tensorrt-cu12")}
"""Distributions that stand in for another; the first that is installed counts, and its name is told."""


def installed_versions(packages: tuple[str, ...] = BUNDLE_PACKAGES) -> dict[str, str]:
    """Package to version; "not installed" where there is none (vitcop itself, when run from its source folder)."""
    return {package: version_of(package) for package in packages}


@cache
def version_of(package: str) -> str:
    """The version of a package, of its variant for GPUs as "1.2.3 (onnxruntime-gpu)"; or "not installed"."""
    for name in (*_VARIANTS.get(package, ()), package):
        try:
            return version(name) if name == package else f"{version(name)} ({name})"
        except PackageNotFoundError:
            continue
    return NOT_INSTALLED
