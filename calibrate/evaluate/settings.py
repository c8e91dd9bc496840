"""What a calibration is asked for: how hard to search and how to run the model. No torch."""

from dataclasses import dataclass

from vitcop.calibrate.core.settings import Share, check_settings, setting
from vitcop.calibrate.data.task_scores import metric_of
from vitcop.calibrate.models.dtypes import Attention, dtype_name
from vitcop.calibrate.schedule.schedule import HeadReduction, Order
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How hard to search and how to run the model.

    `device`, `dtype` and `attn` are as in `load_model`; "fp16" becomes "float16". Results may depend on `threads` in
    their last bits, and never on how many workers there are.
    """

    batch_size: int = setting(16, "prompts run together", least=1)
    max_new_tokens: int = setting(16, "longest answer of the original that is compared, in tokens", least=1)
    top_k: int = setting(64, "tokens whose probability is compared one by one; all others count as one", least=1)
    metric: str = setting("exact_match", "task score: exact_match, vqa_accuracy, anls, multiple_choice")
    rungs: tuple[Share, ...] = setting(
        (0.25, 1.0), "share of the samples that the rules of a cell have seen after each round, ascending to 1"
    )
    keep_counts: int = setting(6, "keep counts of the sensitivity table, on a geometric ladder", least=1)
    max_drops: int = setting(3, "most drops of a schedule, one in the vision stage counted", least=1)
    forecast_sets: int = setting(12, "best sets by forecast that are measured", least=1)
    generations: int = setting(6, "generations of the joint refinement around them; 0 for none", least=0)
    generation_size: int = setting(8, "schedules of a generation", least=1)
    finalists: int = setting(4, "schedules measured again on the selection set", least=1)
    curve_budgets: tuple[Share, ...] = setting(
        (1 / 3, 2 / 9, 1 / 9, 0.05), "budgets of the curve, beside the one asked for"
    )
    curve_sets: int = setting(4, "best sets by forecast that are measured at each of these", least=1)
    head_reductions: tuple[HeadReduction, ...] = setting(("mean_key", "mean_norm"), "reductions of the key norm to try")
    merge_orders: tuple[Order, ...] = setting(
        ("smallest",), "orders of a merge by key norm; largest merges by the negated score"
    )
    cutoff_quantiles: tuple[Share | None, ...] = setting(
        (None, 0.2), "cluster cutoffs to try; null is the paper's distance 8"
    )
    check_share: float = setting(
        0.25, "share of the calibration samples for which gradients check what the scores tell", least=0, most=1
    )
    device: str = setting("cpu", "where the model runs: cpu, cuda")
    dtype: str = setting("float32", "float type of the model: fp32, fp16, bf16")
    attn: Attention = setting("sdpa", "attention of the model; flash_attention_2 needs flash-attn and a GPU")
    threads: int = setting(1, "threads of torch in each unit of work", least=1)
    vision_cache_bytes: int = setting(4 << 30, "bytes of vision outputs held between candidates", least=0)
    prefix_memory_bytes: int = setting(
        2 << 30, "bytes of prefixes (what stands before a drop) held on the device; 0 for none", least=0
    )

    def __post_init__(self) -> None:
        # One name for each type: settings that mean the same are equal, and so are the keys of what they measure.
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        check_settings(self)
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1.0:
            raise InputError(f"rungs: must ascend within (0, 1] and end at 1, found {self.rungs}")
        metric_of(self.metric)
