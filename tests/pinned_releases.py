"""Whether the tests run with the releases of constraints.txt. With others, what depends on a release is skipped."""

import re
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def pinned() -> dict[str, str]:
    """Version by package name, both as constraints.txt has them."""
    lines = (line.split("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


@cache
def differing(*names: str) -> dict[str, str]:
    """Installed versions that are not the pinned ones, by package; of some packages, or of all that are pinned and
    installed. A build's own label, as in 2.13.0+cpu, does not count."""
    wanted = {_normal(name): version for name, version in pinned().items()}
    if names:
        wanted = {_normal(name): wanted[_normal(name)] for name in names}
    found = {_normal(each.name): each.version for each in distributions()}
    return {
        name: found[name]
        for name, version in sorted(wanted.items())
        if name in found and found[name].partition("+")[0] != version
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
