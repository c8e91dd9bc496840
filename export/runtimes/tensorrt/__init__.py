"""TensorRT: engines from the bundle's graphs with vitcop's plugin, and a runner for them.

Looking the target up needs no TensorRT; building and running do, and say what is missing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.plugins.errors import InputError, MissingError

if TYPE_CHECKING:
    from vitcop.export.runtimes.tensorrt.dry_run import DryRun
    from vitcop.export.runtimes.tensorrt.runner import TensorRTRunner

__all__ = ["TARGET", "TensorRtOptions", "TensorRtTarget"]

_REPEATS = 3


class TensorRtTarget:
    """`vitcop.export.runtimes.base.Target` for TensorRT."""

    name = "tensorrt"

    def build(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> EngineInfo:
        chosen = TensorRtOptions.of(options)
        from vitcop.export.runtimes.tensorrt.builder import build

        return build(bundle, chosen)

    def check(self, options: Mapping[str, Any], *, copied_weights: bool) -> None:
        """What can be said of a recipe before anything runs. Raises InputError."""
        TensorRtOptions.of(options)
        if not copied_weights:
            raise InputError("target tensorrt reads weights from the bundle alone: set export.copy_weights: true")

    def dry_run(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> "DryRun":
        """What a build would meet, without building."""
        chosen = TensorRtOptions.of(options)
        from vitcop.export.runtimes.tensorrt.dry_run import dry_run

        return dry_run(bundle, chosen)

    def runner(self, bundle: Bundle, options: Mapping[str, Any] | None = None) -> "TensorRTRunner":
        chosen = TensorRtOptions.of(options)
        from vitcop.export.runtimes.tensorrt.installation import load_tensorrt

        load_tensorrt()
        from vitcop.export.runtimes.tensorrt.runner import TensorRTRunner

        return TensorRTRunner(bundle, chosen)

    def selector_shares(
        self, bundle: Bundle, batch: PromptBatch, options: Mapping[str, Any] | None = None
    ) -> dict[str, float | None]:
        from vitcop.export.runtimes.tensorrt.layers import selector_share
        from vitcop.export.runtimes.tensorrt.network import load_graph, vitcop_nodes

        runner = self.runner(bundle, options)
        runner.prefill(batch)  # The first run warms up and does not count.
        times: dict[str, dict[str, float]] = {"vision": {}, "prefill": {}}
        for part in times:
            runner.profile(part, times[part])
        for _ in range(_REPEATS):
            runner.prefill(batch)
        return {
            part: selector_share(found, vitcop_nodes(load_graph(bundle.graph(part)))) for part, found in times.items()
        }

    def locate_export_loss(self, bundle: Bundle, batch: PromptBatch) -> list[str]:
        """Where the engine parts from its graph, for people. Raises MissingError without polygraphy or TensorRT."""
        from vitcop.export.runtimes.tensorrt.installation import load_tensorrt
        from vitcop.export.runtimes.tensorrt.layerwise import locate_export_loss

        load_tensorrt()
        return locate_export_loss(bundle, batch)

    def versions(self) -> dict[str, str]:
        """Engines are of one GPU and one plugin library, too."""
        from vitcop.export.machine import gpus
        from vitcop.plugins.tensorrt.paths import plugin_path, plugin_sha256

        try:
            plugin = plugin_path()
        except MissingError:
            plugin = None
        return installed_versions(("tensorrt",)) | {
            "GPU": "; ".join(gpus()) or "none",
            "plugin": plugin_sha256(plugin) if plugin is not None else "none",
        }


TARGET = TensorRtTarget()
