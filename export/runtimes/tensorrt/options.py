"""What may be chosen about TensorRT engines, by plain names as `--option NAME=VALUE` gives them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitcop.calibrate.models.dtypes import DTYPES
from vitcop.export.runtimes.tensorrt.profiles import Limits
from vitcop.plugins.errors import InputError

COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")
VERBOSITIES = ("names", "detailed")
REFITS = ("none", "identical", "any")
KV_CACHES = ("auto", "in_place", "plain")

RUN_ONLY = ("device", "weight_streaming_budget", "cuda_graph")
"""Options that only running looks at: engines that differ in nothing else are one engine."""

NO_FLAG = (
    "TensorRT 11 has no builder flag for {name}, and strongly typed networks of TensorRT 10 ignore it: the types stand "
    "in the graph. Say --option precision={name}, which converts the graph and keeps scores in fp32"
)


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """Options of the target. Everything but `device`, `weight_streaming_budget` and `cuda_graph` shapes the engines.

    Args:
        limits: what the engines have to take (`Limits`): batch, text, images, visual tokens, new tokens. By plain names
            its fields are options like the others.
        device: "cuda", the only one there is.
        precision: "fp32", "fp16" or "bf16"; None keeps the type of the graphs. Made by converting the graphs.
        tf32: let products of fp32 be taken in TF32.
        kv_cache: "in_place" (fixed caches that the decode engine updates; needs TensorRT's KV cache layers), "plain"
            (each step gives back caches that are one token longer), or "auto": in place where TensorRT can.
        timing_cache: file that the timing cache is read from, if it is there, and written to.
        optimization_level: 0 to 5; higher searches longer for faster kernels.
        workspace: most GiB of scratch memory, or None for all of the device.
        profiling: "names" or "detailed", what the engine keeps of its layers. (None at all is not offered: the check
            that the plugin layers are there reads them.)
        layer_info: write the engine inspector's report beside each engine.
        hardware_compatibility: "none", "ampere_plus" or "same_compute_capability".
        version_compatible: an engine that later minor versions of TensorRT can run.
        strip: leave out the weights; running puts them in again from the bundle. Needs refit.
        refit: "none", "identical" (weights of the same values may be put in) or "any".
        weight_streaming: an engine whose weights may stay in host memory.
        weight_streaming_budget: GiB of device memory for the weights of each engine when running; 0 saves the
            most; None for TensorRT's automatic budget, about what is free when the engine is opened.
        serialize_plugin: put the plugin library into the engine, so that running needs none. Needs version_compatible.
        cuda_graph: decode as one CUDA graph (in-place caches only).
        fp16, bf16: not options but mistakes that come from trtexec; they are answered with what to say instead.
    """

    limits: Limits = field(default_factory=Limits)
    device: str = "cuda"
    precision: str | None = None
    tf32: bool = False
    kv_cache: str = "auto"
    timing_cache: str | None = None
    optimization_level: int = 3
    workspace: float | None = None
    profiling: str = "detailed"
    layer_info: bool = False
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    strip: bool = False
    refit: str = "none"
    weight_streaming: bool = False
    weight_streaming_budget: float | None = None
    serialize_plugin: bool = False
    cuda_graph: bool = True
    given: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.device != "cuda":
            raise InputError(f"device {self.device!r}: TensorRT runs on cuda alone")
        level = self.optimization_level
        _check("optimization_level", type(level) is int and 0 <= level <= 5, level, "an integer from 0 to 5")
        for name, expected, zero in (
            ("workspace", "GiB above 0", False),
            ("weight_streaming_budget", "GiB, 0 or more", True),
        ):
            value = getattr(self, name)
            sound = value is None or (type(value) in (int, float) and (value > 0 or (zero and value == 0)))
            _check(name, sound, value, expected)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            _check(name, value in allowed or (name == "precision" and value is None), value, " or ".join(allowed))
        for name in (item.name for item in dataclasses.fields(self) if item.type is bool):
            _check(name, type(getattr(self, name)) is bool, getattr(self, name), "true or false")
        if self.timing_cache is not None and not isinstance(self.timing_cache, str):
            raise InputError(f"timing_cache: expected a file name, found {self.timing_cache!r}")
        if self.strip and self.refit == "none":
            raise InputError(
                "strip leaves out the weights, so refit must be identical or any: --option refit=identical"
            )
        if self.serialize_plugin and not self.version_compatible:
            raise InputError("serialize_plugin is for version-compatible engines: --option version_compatible=true")
        if self.weight_streaming_budget is not None and not self.weight_streaming:
            raise InputError("weight_streaming_budget needs an engine built with --option weight_streaming=true")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "TensorRtOptions":
        """From plain values by name. Raises InputError for an unknown name, and for fp16 and bf16 with what to say."""
        values = dict(values or {})
        for name in ("fp16", "bf16"):
            if values.pop(name, False):
                raise InputError(NO_FLAG.format(name=name))
        own = [item.name for item in dataclasses.fields(cls) if item.name not in ("given", "limits")]
        for name in values:
            if name not in (*Limits.names(), *own):
                raise InputError(f"tensorrt has no option {name!r} (known: {', '.join((*Limits.names(), *own))})")
        limits = {name: values.pop(name) for name in Limits.names() if name in values}
        return cls(limits=Limits.of(limits), **values, given=tuple(sorted((*limits, *values))))

    def for_key(self) -> dict[str, Any]:
        """What shapes the engines, as plain values."""
        values = dataclasses.asdict(self)
        values |= values.pop("limits")
        return {name: value for name, value in values.items() if name not in (*RUN_ONLY, "given", "timing_cache")}

    def asked_for(self) -> dict[str, Any]:
        """What was given and shapes the engines: an engine fits where its own values are these."""
        return {name: value for name, value in self.for_key().items() if name in self.given}


_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": tuple(DTYPES),
    "kv_cache": KV_CACHES,
    "profiling": VERBOSITIES,
    "hardware_compatibility": COMPATIBILITIES,
    "refit": REFITS,
}


def _check(name: str, sound: bool, value: Any, expected: str) -> None:
    if not sound:
        raise InputError(f"{name}: expected {expected}, found {value!r}")
