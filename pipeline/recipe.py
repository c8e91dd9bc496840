"""The recipe: everything that `vitcop run` needs to know, as one YAML file checked before anything runs.

Every key is a field of `Recipe` or of its settings, with its default and its meaning; `recipe_reference` prints them.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from vitcop.calibrate.core.settings import setting
from vitcop.calibrate.core.strict_json import naming, read
from vitcop.calibrate.models.dtypes import Attention
from vitcop.pipeline.settings import (
    BenchSettings,
    BuildSettings,
    DataSettings,
    EngineSettings,
    ExportSettings,
    File,
    ReportSettings,
    SearchSettings,
    Settings,
    VerifySettings,
)
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """A whole recipe."""

    model: File = setting(meaning="folder of the Hugging Face checkpoint (config.json, safetensors, processor)")
    device: Literal["cpu", "cuda"] = setting(
        "cpu", "where models run; `calibrate.search` and `build.options` may say otherwise"
    )
    attn: Attention = setting("sdpa", "attention of the PyTorch model; flash_attention_2 needs flash-attn and a GPU")
    data: DataSettings = setting()
    calibrate: SearchSettings = setting(SearchSettings())
    export: ExportSettings = setting(ExportSettings())
    build: BuildSettings = setting(factory=BuildSettings)
    verify: VerifySettings = setting(factory=VerifySettings)
    bench: BenchSettings = setting(BenchSettings())
    report: ReportSettings = setting(ReportSettings())

    def __post_init__(self) -> None:
        super().__post_init__()
        names: dict[Path, str] = {}
        for name, path in vars(self.data).items():
            if path is None and self.calibrate.schedule is None:
                raise InputError(f"data.{name}: missing (a search needs it; or name a schedule in calibrate.schedule)")
            if path is not None and names.setdefault(path.resolve(), name) != name:
                other = names[path.resolve()]
                raise InputError(f"data.{other} and data.{name} are the same file; each split needs samples of its own")

    @property
    def engine(self) -> EngineSettings:
        """The engine, on the recipe's device where the runtime leaves a choice, and PyTorch on the same."""
        default = {"device": self.device} if self.build.target == "onnxruntime" else {}
        return EngineSettings(
            target=self.build.target,
            options=default | self.build.options,
            model=self.model,
            device=self.device,
            attn=self.attn,
        )


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        InputError: one line that names the file, the key in dotted form and what was expected.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe ({error.strerror})") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {_yaml_reason(error)}") from None
    return parse_recipe(data, folder=path.parent, source=str(path))


def parse_recipe(data: Any, *, folder: Path, source: str = "recipe") -> Recipe:
    """Check a recipe given as plain data; paths are relative to `folder`. Raises InputError with `source` and key."""
    if not isinstance(data, dict):
        raise InputError(f"{source}: expected keys and values such as `model: path`, found {type(data).__name__}")
    with naming(source):
        _refuse_unknown(Recipe, data)
        return _placed(read(Recipe, _with_defaults_of_the_whole(data)), folder)


def sections_of(kind: type) -> dict[str, type | None]:
    """The keys of a section, in the order of the file, and the class of those that are sections themselves."""
    hints = get_type_hints(kind)
    return {
        item.name: hints[item.name] if dataclasses.is_dataclass(hints[item.name]) else None
        for item in dataclasses.fields(kind)
    }


def all_keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every key in dotted form, sections included, in the order of the file."""
    keys: list[str] = []
    for name, section in sections_of(kind).items():
        keys.append(prefix + name)
        if section is not None:
            keys += all_keys(section, f"{prefix}{name}.")
    return keys


def _refuse_unknown(kind: type, data: dict[str, Any], prefix: str = "") -> None:
    """Raises InputError for a key that is none, with the nearest of all keys."""
    known = sections_of(kind)
    for name, value in data.items():
        if name not in known:
            near = _nearest(f"{prefix}{name}")
            hint = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
            raise InputError(f"{prefix}{name}: unknown key; {hint}")
        section = known[name]
        if section is not None and isinstance(value, dict):
            _refuse_unknown(section, value, f"{prefix}{name}.")


def _nearest(name: str) -> str | None:
    """The key most like `name`: by its last part, of equals as a whole; sections have long names in common."""

    def likeness(key: str) -> tuple[float, float]:
        ends = (name.rsplit(".", 1)[-1], key.rsplit(".", 1)[-1])
        return difflib.SequenceMatcher(None, *ends).ratio(), difflib.SequenceMatcher(None, name, key).ratio()

    best = max(all_keys(), key=likeness)
    return best if likeness(best)[0] >= 0.6 else None


def _with_defaults_of_the_whole(data: dict[str, Any]) -> dict[str, Any]:
    """Device and attention of the recipe are those of the search, where it does not say otherwise."""
    whole = {name: data[name] for name in ("device", "attn") if name in data}
    calibrate = data.get("calibrate", {})
    search = calibrate.get("search", {}) if isinstance(calibrate, dict) else None
    if not whole or not isinstance(search, dict):
        return data
    return data | {"calibrate": calibrate | {"search": whole | search}}


def _placed(section: Any, folder: Path) -> Any:
    """The section with its paths taken relative to `folder`."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        name, value = item.name, getattr(section, item.name)
        if isinstance(value, Path):
            changed[name] = folder / value
        elif isinstance(value, Settings):
            changed[name] = _placed(value, folder)
    return dataclasses.replace(section, **changed)


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"not YAML that can be read{where}: {reason}"
