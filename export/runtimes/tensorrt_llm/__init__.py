"""TensorRT-LLM: a bundle is packaged for its PyTorch backend, which keeps one KV length for each request."""

from collections.abc import Mapping
from typing import Any, NoReturn

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.base import EngineInfo, packages_only
from vitcop.export.runtimes.tensorrt_llm.builder import build
from vitcop.export.runtimes.tensorrt_llm.equivalent import StageReport, VisionSide, vision_side
from vitcop.export.runtimes.tensorrt_llm.options import TensorRTLLMOptions
from vitcop.export.runtimes.tensorrt_llm.plan import PackagePlan, plan

__all__ = [
    "TARGET",
    "PackagePlan",
    "StageReport",
    "TensorRTLLMOptions",
    "TensorRTLLMTarget",
    "VisionSide",
    "build",
    "vision_side",
]


class TensorRTLLMTarget:
    """`vitcop.export.runtimes.base.Target` that packages and does not run."""

    name = "tensorrt-llm"

    def build(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> EngineInfo:
        return build(bundle, TensorRTLLMOptions.of(options))

    def dry_run(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> PackagePlan:
        """What becomes of the schedule, without packaging."""
        TensorRTLLMOptions.of(options)
        return plan(bundle)

    def check(self, options: Mapping[str, Any] | None = None, *, copied_weights: bool) -> NoReturn:
        """A recipe goes on to run what it builds."""
        raise packages_only(self.name)

    def runner(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> NoReturn:
        raise packages_only(self.name)

    def selector_shares(self, bundle: Bundle, batch: PromptBatch, options: Mapping[str, Any] | None = None) -> NoReturn:
        raise packages_only(self.name)

    def versions(self) -> dict[str, str]:
        return {}


TARGET = TensorRTLLMTarget()
