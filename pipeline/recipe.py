"""The recipe: everything that `vitcop run` needs to know, as one YAML file checked before anything runs.

Every option is a field of the models below, with its default and its description; `recipe_reference` prints them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vitcop.pipeline.recipe_values import (
    PRESETS,
    check_gates,
    check_metric,
    parse_budget,
    relative_path,
    schedule_source,
)
from vitcop.pipeline.search_settings import check_search
from vitcop.plugins.errors import InputError

RecipePath = Annotated[Path, BeforeValidator(relative_path)]
ScheduleSource = Annotated[str | Path | None, BeforeValidator(schedule_source)]
Budget = Annotated[float, BeforeValidator(parse_budget)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Section(BaseModel):
    """A part of the recipe. Unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataSection(Section):
    """The samples: JSONL files, with image paths relative to each file."""

    evaluation: RecipePath = Field(description="samples that `verify` judges the built engine on")
    calibration: RecipePath | None = Field(
        None, description="samples that the statistics come from; needed for a search"
    )
    selection: RecipePath | None = Field(None, description="samples that the schedules compete on; needed for a search")


CONSTRAINTS = ("flops", "kv_bytes", "latency_ms", "max_loss")
"""What a search may be held to in place of a budget."""


class CalibrateSection(Section):
    """How the schedule is found."""

    budget: Budget = Field(
        1 / 3, description="mean share of visual tokens over all decoder layers, in (0, 1]: 0.25 or 1/4"
    )
    flops: float | None = Field(None, gt=0, description="most FLOPs of a prefill, in place of a budget")
    kv_bytes: float | None = Field(None, gt=0, description="most bytes of its KV cache, in place of a budget")
    latency_ms: float | None = Field(None, gt=0, description="most milliseconds on the target of `cost`, likewise")
    max_loss: float | None = Field(None, gt=0, description="most KL in nats, likewise; costs are made least")
    cost: RecipePath | None = Field(None, description="measured times, from `vitcop bench --cost-table`")
    subset_limits: dict[str, float] = Field(
        default_factory=dict, description="greatest loss of task score (a share of 1), by subset"
    )
    executor: Literal["local", "ray"] = Field("local", description="who does the work: this machine, or Ray")
    workers: Count | None = Field(None, description="processes or Ray actors; the result is the same for any number")
    seed: int = Field(0, strict=True, ge=0, description="seed of everything random in the search and its controls")
    schedule: ScheduleSource = Field(
        None, description=f"a schedule file or preset ({', '.join(PRESETS)}) instead of a search"
    )
    calibration_limit: Count | None = Field(None, description="use only the first so many calibration samples")
    selection_limit: Count | None = Field(None, description="use only the first so many selection samples")
    search: Annotated[dict[str, Any], BeforeValidator(check_search)] = Field(
        default_factory=dict, description="settings of the search that differ from their defaults, by name"
    )


class ExportSection(Section):
    """How the bundle is written."""

    copy_weights: bool = Field(
        False, strict=True, description="copy the weights into the bundle, so that it can be moved"
    )


class BuildSection(Section):
    """What the bundle is built for."""

    target: Literal["onnxruntime", "tensorrt", "tensorrt-llm"] = Field("onnxruntime", description="the runtime")
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of that runtime, by name (onnxruntime: device, threads)"
    )


class VerifySection(Section):
    """How the built engine is judged."""

    gates: Annotated[dict[str, Any], BeforeValidator(check_gates)] = Field(
        default_factory=dict, description="limits that differ from the default gates, by name; null switches one off"
    )
    metric: Annotated[str, BeforeValidator(check_metric)] = Field(
        "exact_match", description="task score: exact_match, vqa_accuracy, anls, multiple_choice"
    )
    batch_size: Count = Field(8, description="prompts of one batch")
    max_new_tokens: Count = Field(16, description="longest greedy answer, in tokens")
    limit: Count | None = Field(None, description="use only the first so many evaluation samples")
    baseline: RecipePath | None = Field(None, description="an earlier verify.json that must not get worse")
    controls: bool = Field(
        True, strict=True, description="also measure the controls random and uniform at the same budget"
    )
    seed: int = Field(0, strict=True, ge=0, description="seed of the bootstrap and of the control `random`")


class BenchSection(Section):
    """How times are measured."""

    enabled: bool = Field(True, strict=True, description="false leaves the stage out; the report says so")
    unpruned: bool = Field(
        True, strict=True, description="also export and time the engine without dropping, to compare with"
    )
    compare_torch: bool = Field(True, strict=True, description="also time PyTorch, original and pruned")
    batch_size: Count = Field(1, description="prompts of one batch")
    max_new_tokens: Count = Field(16, description="tokens decoded after each prefill")
    repeats: Count = Field(10, description="timed repetitions")
    warmup: int = Field(2, ge=0, strict=True, description="repetitions that are not counted")


class ReportSection(Section):
    """What the report shows."""

    title: str = Field("", description="heading; the model's name where empty")
    overlays: int = Field(6, ge=0, le=64, strict=True, description="samples shown with their kept patches")


class Recipe(Section):
    """A whole recipe."""

    model: RecipePath = Field(description="folder of the Hugging Face checkpoint (config.json, safetensors, processor)")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where models run; `calibrate.search` and `build.options` may say otherwise"
    )
    attn: Literal["eager", "sdpa", "flash_attention_2"] = Field(
        "sdpa", description="attention of the PyTorch model; flash_attention_2 needs flash-attn and a GPU"
    )
    data: DataSection
    calibrate: CalibrateSection = CalibrateSection()
    export: ExportSection = ExportSection()
    build: BuildSection = BuildSection()
    verify: VerifySection = VerifySection()
    bench: BenchSection = BenchSection()
    report: ReportSection = ReportSection()

    @property
    def constraint(self) -> dict[str, Any]:
        """What `open_search` takes: another constraint in place of the budget, where there is one."""
        section = self.calibrate
        others = {name: getattr(section, name) for name in CONSTRAINTS}
        replaced = any(value is not None for value in others.values())
        return {"budget": None if replaced else section.budget, "limits_to": others}

    @property
    def search_settings(self) -> dict[str, Any]:
        """Settings of the search, with device and attention of the recipe."""
        return {"device": self.device, "attn": self.attn, **self.calibrate.search}

    @property
    def target_options(self) -> dict[str, Any]:
        """Options of the runtime, with the device of the recipe where the runtime leaves a choice."""
        default = {"device": self.device} if self.build.target == "onnxruntime" else {}
        return {**default, **self.build.options}

    @model_validator(mode="after")
    def _one_constraint(self) -> "Recipe":
        section = self.calibrate
        named = [name for name in CONSTRAINTS if getattr(section, name) is not None]
        named = (["budget"] if "budget" in section.model_fields_set else []) + named
        if len(named) > 1:
            raise ValueError(f"`calibrate`: {' and '.join(named)} are given; a search has one constraint")
        if section.latency_ms is not None and section.cost is None:
            raise ValueError("`calibrate.latency_ms` needs `calibrate.cost`, made with `vitcop bench --cost-table`")
        return self

    @model_validator(mode="after")
    def _sound_data(self) -> "Recipe":
        names: dict[Path, str] = {}
        for name in DataSection.model_fields:
            path = getattr(self.data, name)
            if path is None and self.calibrate.schedule is None:
                raise ValueError(
                    f"`data.{name}` is missing (a search needs it; or name a schedule in calibrate.schedule)"
                )
            if path is not None and names.setdefault(path.resolve(), name) != name:
                other = names[path.resolve()]
                raise ValueError(f"data.{other} and data.{name} are the same file; each split needs samples of its own")
        return self


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
    from pydantic import ValidationError

    from vitcop.pipeline.recipe_errors import explain

    if not isinstance(data, dict):
        raise InputError(f"{source}: expected keys and values such as `model: path`, found {type(data).__name__}")
    try:
        return Recipe.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        raise InputError(f"{source}: {explain(error, Recipe)}") from None


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"not YAML that can be read{where}: {reason}"
