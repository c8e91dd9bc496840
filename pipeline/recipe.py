"""The recipe: everything that `vitcop run` needs to know, as one YAML file checked before anything runs.

Every option is a field of the classes below, with its default and its meaning; `recipe_reference` prints them.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from vitcop.calibrate.core.settings import Number, Share, check_settings, setting
from vitcop.calibrate.core.strict_json import naming, read
from vitcop.calibrate.data.task_scores import metric_of
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.schedule.schedule import MAX_INT
from vitcop.plugins.errors import InputError

PRESETS = ("paper-1/3", "paper-2/9", "paper-1/9", "none")
"""Schedules that can be named in place of a file."""

CONSTRAINTS = ("flops", "kv_bytes", "latency_ms", "max_loss")
"""What a search may be held to in place of a budget."""


def _path(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise InputError(f"expected a path, found {value!r}")
    if "\0" in str(value):
        raise InputError("a path cannot hold a NUL character")
    return value


def _schedule(value: Any) -> Any:
    return value if value in PRESETS else Path(_path(value))


File = Annotated[Path, _path]
"""Relative to the recipe's own folder until `parse_recipe` has made it whole."""

ScheduleSource = Annotated[Any, _schedule]
"""Such a path, or the name of a preset."""


class Section:
    """A part of the recipe."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """The samples: JSONL files, with image paths relative to each file."""

    evaluation: File = setting(meaning="samples that `verify` judges the built engine on")
    calibration: File | None = setting(None, "samples that the statistics come from; needed for a search")
    selection: File | None = setting(None, "samples that the schedules compete on; needed for a search")


@dataclass(frozen=True, kw_only=True)
class CalibrateSection(Section):
    """How the schedule is found."""

    budget: Share | None = setting(
        None, "mean share of visual tokens over all decoder layers, in (0, 1]: 0.25 or 1/4; 1/3 where nothing is given"
    )
    flops: Number | None = setting(None, "most FLOPs of a prefill, in place of a budget", above=0)
    kv_bytes: Number | None = setting(None, "most bytes of its KV cache, in place of a budget", above=0)
    latency_ms: Number | None = setting(None, "most milliseconds on the target of `cost`, likewise", above=0)
    max_loss: Number | None = setting(None, "most KL in nats, likewise; costs are made least", above=0)
    cost: File | None = setting(None, "measured times, from `vitcop bench --cost-table`")
    subset_limits: dict[str, float] = setting(
        meaning="greatest loss of task score (a share of 1), by subset", factory=dict
    )
    executor: Literal["local", "ray"] = setting("local", "who does the work: this machine, or Ray")
    workers: int | None = setting(None, "processes or Ray actors; the result is the same for any number", least=1)
    seed: int = setting(0, "seed of everything random in the search and its controls", least=0, most=MAX_INT - 1)
    schedule: ScheduleSource | None = setting(
        None, f"a schedule file or preset ({', '.join(PRESETS)}) instead of a search"
    )
    calibration_limit: int | None = setting(None, "use only the first so many calibration samples", least=1)
    selection_limit: int | None = setting(None, "use only the first so many selection samples", least=1)
    skip_bad: bool = setting(False, "leave out samples that cannot be read or answered, and name them")
    search: CalibrationSettings = setting(CalibrationSettings(), "settings of the search")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("budget", *CONSTRAINTS) if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given; a search has one constraint")
        if self.latency_ms is not None and self.cost is None:
            raise InputError("latency_ms needs `cost`, made with `vitcop bench --cost-table`")


@dataclass(frozen=True, kw_only=True)
class ExportSection(Section):
    """How the bundle is written."""

    copy_weights: bool = setting(False, "copy the weights into the bundle, so that it can be moved")


@dataclass(frozen=True, kw_only=True)
class BuildSection(Section):
    """What the bundle is built for."""

    target: Literal["onnxruntime", "tensorrt", "tensorrt-llm"] = setting("onnxruntime", "the runtime")
    options: dict[str, Any] = setting(
        meaning="options of that runtime, by name (onnxruntime: device, threads)", factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class VerifySection(Section):
    """How the built engine is judged."""

    gates: dict[str, Any] = setting(
        meaning="limits that differ from the default gates, by name; null switches one off", factory=dict
    )
    metric: str = setting("exact_match", "task score: exact_match, vqa_accuracy, anls, multiple_choice")
    batch_size: int = setting(8, "prompts of one batch", least=1)
    max_new_tokens: int = setting(16, "longest greedy answer, in tokens", least=1)
    limit: int | None = setting(None, "use only the first so many evaluation samples", least=1)
    baseline: File | None = setting(None, "an earlier verify.json that must not get worse")
    controls: bool = setting(True, "also measure the controls random and uniform at the same budget")
    seed: int = setting(0, "seed of the bootstrap and of the control `random`", least=0)

    def __post_init__(self) -> None:
        from vitcop.export.measure.gates import Gates

        super().__post_init__()
        Gates.of(self.gates)
        metric_of(self.metric)


@dataclass(frozen=True, kw_only=True)
class BenchSection(Section):
    """How times are measured."""

    enabled: bool = setting(True, "false leaves the stage out; the report says so")
    unpruned: bool = setting(True, "also export and time the engine without dropping, to compare with")
    compare_torch: bool = setting(True, "also time PyTorch, original and pruned")
    batch_size: int = setting(1, "prompts of one batch", least=1)
    max_new_tokens: int = setting(16, "tokens decoded after each prefill", least=1)
    repeats: int = setting(10, "timed repetitions", least=1)
    warmup: int = setting(2, "repetitions that are not counted", least=0)


@dataclass(frozen=True, kw_only=True)
class ReportSection(Section):
    """What the report shows."""

    title: str = setting("", "heading; the model's name where empty")
    overlays: int = setting(6, "samples shown with their kept patches", least=0, most=64)


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """A whole recipe."""

    model: File = setting(meaning="folder of the Hugging Face checkpoint (config.json, safetensors, processor)")
    device: Literal["cpu", "cuda"] = setting(
        "cpu", "where models run; `calibrate.search` and `build.options` may say otherwise"
    )
    attn: Literal["eager", "sdpa", "flash_attention_2"] = setting(
        "sdpa", "attention of the PyTorch model; flash_attention_2 needs flash-attn and a GPU"
    )
    data: DataSection = setting()
    calibrate: CalibrateSection = setting(CalibrateSection())
    export: ExportSection = setting(ExportSection())
    build: BuildSection = setting(factory=BuildSection)
    verify: VerifySection = setting(factory=VerifySection)
    bench: BenchSection = setting(BenchSection())
    report: ReportSection = setting(ReportSection())

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
    def constraint(self) -> dict[str, Any]:
        """What `open_search` takes: the budget, or another constraint in its place."""
        limits = {name: getattr(self.calibrate, name) for name in CONSTRAINTS}
        return {"budget": self.calibrate.budget, "limits_to": limits}

    @property
    def target_options(self) -> dict[str, Any]:
        """Options of the runtime, with the device of the recipe where the runtime leaves a choice."""
        default = {"device": self.device} if self.build.target == "onnxruntime" else {}
        return {**default, **self.build.options}


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
        elif isinstance(value, Section):
            changed[name] = _placed(value, folder)
    return dataclasses.replace(section, **changed)


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"not YAML that can be read{where}: {reason}"
