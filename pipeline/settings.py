"""What each step can be asked for: frozen settings, which recipes hold, commands offer and the Python API takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vitcop.calibrate.core.settings import Number, Share, check_settings, setting
from vitcop.calibrate.data.task_scores import metric_of
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.dtypes import Attention
from vitcop.calibrate.schedule.schedule import MAX_INT
from vitcop.calibrate.search.constraints import Constraint, ConstraintKind
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.stats.subset_limits import SubsetLimit

PRESETS = ("paper-1/3", "paper-2/9", "paper-1/9", "none")
"""Schedules that can be named in place of a file."""

CONSTRAINTS: tuple[ConstraintKind, ...] = ("flops", "kv_bytes", "latency_ms", "max_loss")
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


class Settings:
    """A part of a recipe; commands and the Python API take the same."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """The samples: JSONL files, with image paths relative to each file."""

    evaluation: File = setting(meaning="samples that `verify` judges the built engine on")
    calibration: File | None = setting(None, "samples that the statistics come from; needed for a search")
    selection: File | None = setting(None, "samples that the schedules compete on; needed for a search")


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Settings):
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
        # Both check themselves: what cannot be is refused before any file is opened.
        _ = self.constraint, self.limits

    @property
    def limits(self) -> "tuple[SubsetLimit, ...]":
        """What may be lost on named subsets."""
        if not self.subset_limits:
            return ()
        # It loads NumPy, which asking for help must not.
        from vitcop.calibrate.stats.subset_limits import SubsetLimit

        return tuple(SubsetLimit(subset=name, max_drop=most) for name, most in sorted(self.subset_limits.items()))

    @property
    def constraint(self) -> Constraint:
        """What the search is held to."""
        for name in CONSTRAINTS:
            if getattr(self, name) is not None:
                return Constraint(kind=name, value=getattr(self, name))
        return Constraint(kind="budget", value=1 / 3 if self.budget is None else self.budget)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """How the bundle is written."""

    copy_weights: bool = setting(False, "copy the weights into the bundle, so that it can be moved")


@dataclass(frozen=True, kw_only=True)
class BuildSettings(Settings):
    """What the bundle is built for."""

    target: Literal["onnxruntime", "tensorrt", "tensorrt-llm"] = setting("onnxruntime", "the runtime")
    options: dict[str, Any] = setting(
        meaning="options of that runtime, by name (onnxruntime: device, threads)", factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class EngineSettings(Settings):
    """Which engine is measured, and how the PyTorch model runs that it is held against."""

    target: str = setting("onnxruntime", "the runtime")
    options: dict[str, Any] = setting(meaning="options of that runtime, by name", factory=dict)
    model: File | None = setting(None, "folder of the checkpoint; the one that the bundle names where left out")
    device: str = setting("cpu", "where PyTorch runs: cpu, cuda")
    attn: Attention = setting("sdpa", "attention of the PyTorch model; flash_attention_2 needs flash-attn and a GPU")


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Settings):
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
class BenchSettings(Settings):
    """How times are measured."""

    enabled: bool = setting(True, "false leaves the stage out; the report says so")
    unpruned: bool = setting(True, "also export and time the engine without dropping, to compare with")
    compare_torch: bool = setting(True, "also time PyTorch, original and pruned")
    batch_size: int = setting(1, "prompts of one batch", least=1)
    max_new_tokens: int = setting(16, "tokens decoded after each prefill", least=1)
    repeats: int = setting(10, "timed repetitions", least=1)
    warmup: int = setting(2, "repetitions that are not counted", least=0)


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """What the report shows."""

    title: str = setting("", "heading; the model's name where empty")
    overlays: int = setting(6, "samples shown with their kept patches", least=0, most=64)
