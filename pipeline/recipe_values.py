"""Values of a recipe: what is accepted, and what they become."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

PRESETS = ("paper-1/3", "paper-2/9", "paper-1/9", "none")
"""Schedules that can be named in place of a file."""


def parse_budget(value: Any) -> float:
    """A budget as a float, from a number or from text such as "1/3". Raises ValueError outside (0, 1]."""
    try:
        if isinstance(value, bool):
            raise ValueError
        budget = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(
            f"expected a number above 0 and at most 1, or a fraction such as 1/3, found {value!r}"
        ) from None
    if not 0 < budget <= 1:
        raise ValueError(f"expected a budget above 0 and at most 1, found {value!r}")
    return budget


def relative_path(value: Any, info: ValidationInfo) -> Path:
    """A path of the recipe, taken relative to the recipe's own folder."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError(f"expected a path, found {value!r}")
    if "\0" in str(value):
        raise ValueError("a path cannot hold a NUL character")
    return Path((info.context or {}).get("folder", "."), value)


def schedule_source(value: Any, info: ValidationInfo) -> Any:
    return value if value is None or value in PRESETS else relative_path(value, info)


def check_gates(value: Any) -> Any:
    """Limits by the names of gates. Raises ValueError for an unknown gate or a limit that is none."""
    from vitcop.export.measure.gates import Gates

    if isinstance(value, Mapping):
        Gates.of(value)
    return value


def check_metric(value: Any) -> Any:
    """The name of a task score. Raises ValueError for an unknown one."""
    from vitcop.calibrate.data.task_scores import metric_of

    if isinstance(value, str):
        metric_of(value)
    return value
