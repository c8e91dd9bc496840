"""The whole road: command line, recipe, stages with their cache, report.

The steps are plain functions, loaded when first used::

    from vitcop.pipeline import run
    run("recipe.yaml", "out/")
"""

if __name__ != "vitcop.pipeline":
    raise ImportError(
        f"import this package as 'vitcop.pipeline', not as {__name__!r}: install the project (pip install -e .)"
    )

from importlib import import_module
from typing import Any

_STEPS = {
    "run": "vitcop.pipeline.running",
    "calibrate": "vitcop.pipeline.steps.calibrate",
    "export": "vitcop.pipeline.steps.export",
    "build": "vitcop.pipeline.steps.build",
    "verify": "vitcop.pipeline.steps.verify",
    "bench": "vitcop.pipeline.steps.bench",
    "report": "vitcop.pipeline.steps.report",
    "generate": "vitcop.pipeline.steps.generate",
}

__all__ = ["bench", "build", "calibrate", "export", "generate", "report", "run", "verify"]


def __getattr__(name: str) -> Any:
    """Load a step at its first use, so that importing the package stays cheap."""
    if name not in _STEPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_STEPS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
