"""The record of a finished stage: what went in, what came out; and whether it still holds."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import sha256_of_json
from vitcop.calibrate.core.partial import write_text
from vitcop.calibrate.core.strict_json import parse, read_text
from vitcop.pipeline.console import dump_json
from vitcop.plugins.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """Everything that decides a stage's output.

    Args:
        recipe: recipe values by dotted key.
        inputs: digests by a name that a person understands ("model", "schedule.json").
        versions: of the packages and machine parts that matter.
    """

    recipe: dict[str, Any]
    inputs: dict[str, str]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, as in the record."""
        return {"recipe": self.recipe, "inputs": self.inputs, "versions": self.versions}

    @property
    def key(self) -> str:
        """The stage's key: equal keys, equal outputs."""
        return sha256_of_json(self.as_dict())


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `OUT/.vitcop/stages/<name>.json` holds. `outputs`: digests by path relative to OUT."""

    key: str
    ingredients: dict[str, dict[str, Any]]
    outputs: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the record: the last thing that a stage does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_json({"schema_version": SCHEMA_VERSION, **asdict(self)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Record | None":
        """The record, or None where there is none that can be read."""
        try:
            return parse(cls, read_text(path), str(path), version=SCHEMA_VERSION)
        except InputError:
            return None


def why_stale(record: Record | None, ingredients: Ingredients, outputs: dict[str, str | None]) -> str | None:
    """Why a stage has to run, in a few words; None where its outputs still hold.

    Args:
        outputs: digests of the outputs as they lie there now, None where one is missing (as an optional one may be).
    """
    if record is None:
        return "not run yet"
    if record.key != ingredients.key:
        return _difference(record.ingredients, ingredients.as_dict())
    for name, digest in outputs.items():
        if digest != record.outputs.get(name):
            return f"output {name} {'is missing' if digest is None else 'was changed'}"
    return None


def _difference(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> str:
    """The first ingredient that differs, in words."""
    for part, noun in (("recipe", "recipe key"), ("inputs", "input"), ("versions", "version of")):
        old, new = before.get(part, {}), now[part]
        for name in sorted(old.keys() | new.keys()):
            if name not in old:
                return f"{noun} {name} is new"
            if name not in new:
                return f"{noun} {name} is gone"
            if old[name] != new[name]:
                values = "" if part == "inputs" else f" ({old[name]} → {new[name]})"
                return f"{noun} {name} changed{values}"
    return "the stage's definition changed"
