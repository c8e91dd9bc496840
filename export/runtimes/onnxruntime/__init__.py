"""The embedded target: ONNX Runtime on CPU or CUDA, straight from the bundle's graphs."""

from collections.abc import Mapping
from typing import Any

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.onnxruntime.builder import build
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.export.runtimes.onnxruntime.profiling import profile, selector_shares
from vitcop.export.runtimes.onnxruntime.runner import OnnxRuntimeRunner

__all__ = [
    "TARGET",
    "OnnxRuntimeOptions",
    "OnnxRuntimeRunner",
    "OnnxRuntimeTarget",
    "build",
    "profile",
    "selector_shares",
]


class OnnxRuntimeTarget:
    """`vitcop.export.runtimes.base.Target` for ONNX Runtime."""

    name = "onnxruntime"

    def build(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> EngineInfo:
        return build(bundle, OnnxRuntimeOptions.of(options))

    def runner(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> OnnxRuntimeRunner:
        chosen = OnnxRuntimeOptions.of(options)
        return OnnxRuntimeRunner(bundle, device=chosen.device, threads=chosen.threads)

    def selector_shares(
        self, bundle: Bundle, batch: PromptBatch, options: Mapping[str, Any] | None = None
    ) -> dict[str, float | None]:
        return selector_shares(bundle, batch, OnnxRuntimeOptions.of(options))

    def versions(self) -> dict[str, str]:
        return installed_versions(("onnxruntime",))


TARGET = OnnxRuntimeTarget()
