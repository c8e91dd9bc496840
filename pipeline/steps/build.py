"""`build`: make the engine of a bundle for a target."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.digests import known_path_digest
from vitcop.calibrate.core.partial import write_text
from vitcop.pipeline.console import Console, dump_json
from vitcop.pipeline.preflight import open_bundle
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.export.runtimes import EngineInfo
    from vitcop.export.runtimes.base import BuildPlan


def build(
    bundle: str | Path,
    *,
    target: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> "EngineInfo":
    """Build (or reuse) the engine below `bundle/engines/<target>/`.

    Args:
        bundle: the bundle's folder.
        target: name of the runtime.
        options: of that runtime, by name.

    Raises InputError for an unknown target or option and for weights changed since the export, MissingError where this
    machine lacks what the target needs.
    """
    from vitcop.export.runtimes import open_target

    console = console or Console(quiet=True)
    engine = open_target(target).build(open_bundle(bundle, console), dict(options or {}))
    console.note(f"{target}: {engine.reason}")
    # What a target could not do as scheduled is never left to its files alone.
    for line in engine.sidecar.get("report", ()):
        console.note(f"{target}: {line}")
    return engine


def plan_build(
    bundle: str | Path, *, target: str = "onnxruntime", options: Mapping[str, Any] | None = None
) -> "BuildPlan":
    """What `build` would meet, without building: nodes that the target cannot take, shapes, memory.

    Raises InputError for a target that has no such look ahead.
    """
    from vitcop.export.runtimes import open_target

    opened = open_target(target)
    look = getattr(opened, "dry_run", None)
    if look is None:
        raise InputError(f"target {target!r} has no --dry-run: its build only loads the graphs and takes seconds")
    return look(open_bundle(bundle, Console(quiet=True)), dict(options or {}))


def engine_facts(engine: "EngineInfo") -> dict[str, Any]:
    """What build.json says: which engine, by target, key and content. The same for a built and for a reused engine."""
    return {
        "schema_version": 1,
        "target": engine.target,
        "key": engine.key,
        "sha256": known_path_digest(Path(engine.path)),
    }


def write_result(engine: "EngineInfo", out: Path) -> None:
    """Write build.json."""
    write_text(out, dump_json(engine_facts(engine)) + "\n")
