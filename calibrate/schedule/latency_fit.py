"""From timed prefills to the coefficients of a cost table: least squares on relative errors, no coefficient below 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitcop.calibrate.schedule.latency import prefill_terms, vision_terms
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One timed prefill.

    Args:
        schedule: what ran.
        num_visual, text_tokens: of the prompt; its images are those of the reference prompt, however many of their
            visual tokens it has.
        vision, prefill: seconds of the vision graph and of the language model.
    """

    schedule: Schedule
    num_visual: int
    text_tokens: int
    vision: float
    prefill: float


def fit(points: Sequence[Timed], knees: Sequence[int]) -> dict[str, float]:
    """Coefficients by name, in seconds; kinds that no point has are left out.

    Raises InputError where a point took no time, so that no relative error can be told.
    """
    found: dict[str, float] = {}
    for part in ("vision", "prefill"):
        seconds = [getattr(point, part) for point in points]
        if not points or min(seconds) <= 0:
            raise InputError(f"the runtime gave no time of its {part}, so no cost table can be made of it")
        found |= _solve([_terms(point, part, knees) for point in points], seconds)
    return found


def forecast(coefficients: dict[str, float], point: Timed, knees: Sequence[int]) -> tuple[float, float]:
    """Seconds of vision graph and prefill for the prompt of a point."""
    vision, prefill = (
        sum(coefficients[name] * factor for name, factor in _terms(point, part, knees).items())
        for part in ("vision", "prefill")
    )
    return vision, prefill


def _terms(point: Timed, part: str, knees: Sequence[int]) -> dict[str, float]:
    if part == "vision":
        return vision_terms(point.schedule, point.num_visual, 1.0)
    return prefill_terms(point.schedule, point.num_visual, point.text_tokens, knees)


def _solve(rows: Sequence[dict[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """min Σ ((Σ x·term − seconds) / seconds)² over x ≥ 0."""
    from scipy.optimize import nnls

    names = list(dict.fromkeys(name for row in rows for name in row))
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows], dtype=np.float64)
    matrix /= np.asarray(seconds, dtype=np.float64)[:, None]
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(matrix / scale, np.ones(len(rows)))
    return {name: float(value) for name, value in zip(names, solution / scale, strict=True)}
