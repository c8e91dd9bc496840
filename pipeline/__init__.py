"""The whole road: command line, recipe, stages with their cache, report.

The steps are plain functions, and what they can be asked for are frozen settings; both are loaded when first used::

    from vitcop.pipeline import VerifySettings, run, verify
    run("recipe.yaml", "out/")
    verify("out/bundle", "more.jsonl", VerifySettings(metric="anls", batch_size=4))
"""

if __name__ != "vitcop.pipeline":
    raise ImportError(
        f"import this package as 'vitcop.pipeline', not as {__name__!r}: install the project (pip install -e .)"
    )

from importlib import import_module
from typing import Any

_PLACES = {
    "run": "vitcop.pipeline.running",
    "calibrate": "vitcop.pipeline.steps.calibrate",
    "export": "vitcop.pipeline.steps.export",
    "build": "vitcop.pipeline.steps.build",
    "verify": "vitcop.pipeline.steps.verify",
    "bench": "vitcop.pipeline.steps.bench",
    "report": "vitcop.pipeline.steps.report",
    "generate": "vitcop.pipeline.steps.generate",
    "BenchSettings": "vitcop.pipeline.settings",
    "CalibrationSettings": "vitcop.pipeline.settings",
    "EngineSettings": "vitcop.pipeline.settings",
    "ReportSettings": "vitcop.pipeline.settings",
    "SearchSettings": "vitcop.pipeline.settings",
    "VerifySettings": "vitcop.pipeline.settings",
}

__all__ = [
    "BenchSettings",
    "CalibrationSettings",
    "EngineSettings",
    "ReportSettings",
    "SearchSettings",
    "VerifySettings",
    "bench",
    "build",
    "calibrate",
    "export",
    "generate",
    "report",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a step or settings at the first use, so that importing the package stays cheap."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
