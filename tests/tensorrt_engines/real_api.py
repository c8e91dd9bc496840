"""What NVIDIA's real Python bindings have: members of every class, and how their functions are called.

Printed by a process of its own (`DUMP`), since the bindings want libraries that are stand-ins here; read back as
`Bindings`. Signatures are those that pybind11 writes into the docstrings.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_calls import Api
from tensorrt_stand_ins import BINDINGS, distribution, run, stand_in_environment

ROOT = Path(__file__).parents[2]

RELEASES = ("11", "10.16")
"""Any release of 11, and the last of 10."""

DUMP = """
import json
import tensorrt as trt

def told(owner, found):
    for name in dir(owner):
        member = getattr(owner, name, None)
        static = next((vars(kind)[name] for kind in owner.__mro__ if name in vars(kind)), None)
        settable = not isinstance(static, property) or static.fset is not None
        found[name] = [getattr(member, "__doc__", None) if callable(member) else None, settable]
        if isinstance(member, type) and name not in ("__class__", "__base__"):
            told(member, classes.setdefault(f"{owner.__name__}.{name}", {}))

classes = {"trt": {}}
for name in dir(trt):
    member = getattr(trt, name)
    classes["trt"][name] = [getattr(member, "__doc__", None) if callable(member) else None, True]
    if isinstance(member, type):
        told(member, classes.setdefault(name, {}))
print(json.dumps({"version": trt.__version__, "classes": classes}))
"""


@dataclass(frozen=True)
class Signature:
    """Arguments in order, `self` left out, and how many of them have no default."""

    arguments: tuple[str, ...]
    required: int
    result: str

    def takes(self, positional: int, keywords: tuple[str, ...]) -> bool:
        given = [*self.arguments[:positional], *keywords]
        needed = self.arguments[: self.required]
        known = positional <= len(self.arguments) and set(keywords) <= set(self.arguments[positional:])
        return known and len(given) == len(set(given)) and set(needed) <= set(given)


@dataclass(frozen=True)
class Bindings:
    """The bindings of one version."""

    version: str
    classes: dict[str, dict[str, list[Any]]]

    def api(self) -> Api:
        members = {owner: frozenset(names) for owner, names in self.classes.items()}
        results = {}
        for owner, names in self.classes.items():
            for name in names:
                told = {item.result for item in self.signatures(owner, name)}
                if len(told) == 1 and next(iter(told)) in members:
                    results[owner, name] = told.pop()
        return Api(members, results)

    def has(self, owner: str, name: str) -> bool:
        return name in self.classes.get(owner, {})

    def settable(self, owner: str, name: str) -> bool:
        return self.classes[owner][name][1]

    def signatures(self, owner: str, name: str) -> list[Signature]:
        """All overloads of a function, or of a class's constructor; empty where the docstring tells none."""
        if owner == "trt" and name in self.classes:
            owner, name = name, "__init__"
        doc = self.classes[owner][name][0] or ""
        lines = [line.strip() for line in doc.splitlines()]
        pattern = re.compile(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)")
        found = [match for line in lines if (match := pattern.fullmatch(line))]
        return [_signature(match[1], match[2]) for match in found if match[1] != "*args, **kwargs"]


def bindings_environment(release: str, folder: Path) -> dict[str, str]:
    """The environment of processes that import the bindings of one of `RELEASES`: the installed ones where they
    are of it, else those that `make test` puts below build/. Skips the test where there are none."""
    installed = distribution(BINDINGS)
    packages = None
    if installed is None or not installed.version.startswith(f"{release}."):
        packages = ROOT / "build" / f"tensorrt-bindings-{release}"
        if distribution(BINDINGS, packages) is None:
            pytest.skip(f"no {BINDINGS} {release} in {packages}: `make test` puts it there")
    return stand_in_environment(folder, packages)


def real_bindings(release: str, folder: Path) -> Bindings:
    """What the bindings of a release have."""
    data = json.loads(run(bindings_environment(release, folder), DUMP))
    assert data["version"].startswith(f"{release}."), data["version"]
    return Bindings(**data)


def _signature(arguments: str, result: str) -> Signature:
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(arguments):
        depth += (letter in "[(<{") - (letter in "])}" or (letter == ">" and arguments[place - 1] != "-"))
        if letter == "," and depth == 0:
            parts.append(arguments[start:place])
            start = place + 1
    parts = [part.strip() for part in (*parts, arguments[start:]) if part.strip() not in ("", "/", "*")]
    parts = [part for part in parts if part.split(":")[0] != "self"]
    names = tuple(part.split(":")[0].strip() for part in parts)
    required = sum(" = " not in part for part in parts)
    return Signature(names, required, result.strip().removeprefix("tensorrt_bindings.tensorrt."))
