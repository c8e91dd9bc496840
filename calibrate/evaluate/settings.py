"""What a calibration is asked for: how hard to search and how to run the model. No torch."""

from dataclasses import dataclass

from vitcop.calibrate.data.task_scores import metric_of
from vitcop.calibrate.models.dtypes import dtype_name
from vitcop.plugins.errors import InputError

_POSITIVE = (
    "batch_size",
    "max_new_tokens",
    "top_k",
    "keep_counts",
    "max_drops",
    "forecast_sets",
    "generation_size",
    "finalists",
    "curve_sets",
    "threads",
)


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How hard to search and how to run the model.

    Args:
        batch_size: prompts run together.
        max_new_tokens: longest answer of the original that is compared.
        top_k: tokens whose probability is compared one by one; all others count as one.
        metric: the task score: exact_match, vqa_accuracy, anls or multiple_choice.
        rungs: share of the calibration set that the rules of a cell have seen after each round, ascending to 1.
        keep_counts: keep counts of the sensitivity table, on a geometric ladder.
        max_drops: most drops of a schedule, one in the vision stage counted.
        forecast_sets: best sets by forecast that are measured.
        generations, generation_size: of the joint refinement around them; 0 generations for none.
        finalists: schedules measured again on the selection set.
        curve_budgets: budgets of the curve, beside the one asked for.
        curve_sets: best sets by forecast that are measured at each of these.
        head_reductions: reductions of the key norm to try.
        merge_orders: orders in which a merge by key norm is tried; "largest" merges by the negated score.
        cutoff_quantiles: cluster cutoffs to try; None is the paper's distance 8.
        check_share: share of the calibration samples for which gradients check what the scores tell.
        device, dtype, attn: as in `load_model`; "fp16" becomes "float16".
        threads: of torch, in each unit of work. Results may depend on it in their last bits, and never on how many
            workers there are.
        vision_cache_bytes: vision outputs held between candidates.
        prefix_memory_bytes: prefixes (hidden states, keys and values before a drop) held between candidates, on the
            model's device; 0 for none.
    """

    batch_size: int = 16
    max_new_tokens: int = 16
    top_k: int = 64
    metric: str = "exact_match"
    rungs: tuple[float, ...] = (0.25, 1.0)
    keep_counts: int = 6
    max_drops: int = 3
    forecast_sets: int = 12
    generations: int = 6
    generation_size: int = 8
    finalists: int = 4
    curve_budgets: tuple[float, ...] = (1 / 3, 2 / 9, 1 / 9, 0.05)
    curve_sets: int = 4
    head_reductions: tuple[str, ...] = ("mean_key", "mean_norm")
    merge_orders: tuple[str, ...] = ("smallest",)
    cutoff_quantiles: tuple[float | None, ...] = (None, 0.2)
    check_share: float = 0.25
    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    threads: int = 1
    vision_cache_bytes: int = 4 << 30
    prefix_memory_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise InputError(f"calibration settings: {name} must be at least 1, found {getattr(self, name)}")
        for name in ("generations", "vision_cache_bytes", "prefix_memory_bytes"):
            if getattr(self, name) < 0:
                raise InputError(f"calibration settings: {name} must be at least 0, found {getattr(self, name)}")
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] <= 0 or self.rungs[-1] != 1.0:
            raise InputError(f"calibration settings: rungs must ascend within (0, 1] and end at 1, found {self.rungs}")
        metric_of(self.metric)
        # One name for each type: settings that mean the same are equal, and so are the keys of what they measure.
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        if not 0 <= self.check_share <= 1:
            raise InputError(f"calibration settings: check_share must be in [0, 1], found {self.check_share}")
