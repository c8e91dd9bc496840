"""What every target offers, and the list of targets. Looking a target up imports it, nothing earlier does."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Runner
from vitcop.export.bundle import Bundle
from vitcop.plugins.errors import InputError

_MODULES = {
    "onnxruntime": "vitcop.export.runtimes.onnxruntime",
    "tensorrt": "vitcop.export.runtimes.tensorrt",
    "tensorrt-llm": "vitcop.export.runtimes.tensorrt_llm",
}
"""Target name to the module whose `TARGET` it is. A new target is one more line here and one more folder."""

PACKAGING = ("tensorrt-llm",)
"""Targets that make a package which another program serves: they build, but have no runner."""

NEEDS_BUILDING = ("tensorrt",)
"""Targets whose runner opens a built engine, not the bundle's own graphs."""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """A built engine.

    Args:
        target: target name.
        key: hash of everything the engine depends on.
        path: its folder, `engines/<target>/<key>` in the bundle.
        reused: True where an engine of this key was there already.
        reason: one line: why it was reused or built.
        sidecar: the contents of engine.json.
    """

    target: str
    key: str
    path: Path
    reused: bool
    reason: str
    sidecar: dict[str, Any]


class EngineRunner(Runner, Protocol):
    """A runner of an engine; beside running it shows its cache, so that `verify` can compare it layer by layer."""

    def kv(self, state: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each decoder layer as they stand in a decode state, fp32 [B,Nkv,P_g,D]."""
        ...


class BuildPlan(Protocol):
    """What a build would meet; targets that can look ahead have a method `dry_run(bundle, options)` that gives one."""

    @property
    def passed(self) -> bool:
        """Whether a build has a chance."""
        ...

    def text(self) -> str:
        """For people."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        ...


class Target(Protocol):
    """One target. `options` are plain values by name (as on the command line); unknown names are an InputError."""

    name: str

    def build(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> EngineInfo:
        """Make (or reuse) the engine of a bundle. Raises MissingError where this machine lacks what it needs."""
        ...

    def runner(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> EngineRunner:
        """A runner of the bundle on this target."""
        ...

    def selector_shares(
        self, bundle: Bundle, batch: PromptBatch, options: Mapping[str, Any] | None = None
    ) -> dict[str, float | None]:
        """Share of the time of the "vision" and "prefill" graphs that is spent in vitcop's own operations.

        None for a graph whose share cannot be told.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages that run the engine."""
        ...


def target_names() -> tuple[str, ...]:
    """Targets that this version can build for."""
    return tuple(_MODULES)


def packages_only(name: str) -> InputError:
    """The error of a packaging target that is asked to run."""
    return InputError(
        f"target {name} packages a bundle for another program to serve and runs nothing itself: verify, time and "
        f"generate with target onnxruntime, then `vitcop build BUNDLE --target {name}`"
    )


def open_target(name: str) -> Target:
    """The target of that name. Raises InputError for one that is unknown."""
    if name not in _MODULES:
        raise InputError(f"target {name!r} is not known; available: {', '.join(target_names())}")
    return import_module(_MODULES[name]).TARGET
