"""The builder's configuration and the optimization profile, from options. Every option ends in one real setting."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.export.runtimes.tensorrt.estimate import GIB
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.profiles import Profile
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt


def configure(builder: "trt.Builder", options: TensorRtOptions, plugin: Path | None) -> "trt.IBuilderConfig":
    """A configuration as the options say.

    Raises InputError where this TensorRT lacks what an option asks for.
    """
    import tensorrt as trt

    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    # The runner has one stream; what TensorRT would start beside it could not be captured with it.
    config.max_aux_streams = 0
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * GIB))
    verbosity = trt.ProfilingVerbosity
    detailed = options.profiling == "detailed"
    config.profiling_verbosity = verbosity.DETAILED if detailed else verbosity.LAYER_NAMES_ONLY
    for flag, wanted in _flags(options).items():
        if wanted:
            config.set_flag(flag)
        elif config.get_flag(flag):
            config.clear_flag(flag)
    levels = trt.HardwareCompatibilityLevel
    if options.hardware_compatibility == "ampere_plus":
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    elif options.hardware_compatibility == "same_compute_capability":
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
    if options.serialize_plugin and plugin is not None:
        config.plugins_to_serialize = [str(plugin)]
    if options.timing_cache is not None:
        _load_timing_cache(config, Path(options.timing_cache))
    return config


def _flags(options: TensorRtOptions) -> "dict[trt.BuilderFlag, bool]":
    """Every builder flag that an option decides. TF32 is on by default: products of fp32 would lose 13 bits."""
    import tensorrt as trt

    return {
        trt.BuilderFlag.TF32: options.tf32,
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
        trt.BuilderFlag.STRIP_PLAN: options.strip,
        trt.BuilderFlag.REFIT: options.refit == "any",
        trt.BuilderFlag.REFIT_IDENTICAL: options.refit == "identical",
        trt.BuilderFlag.WEIGHT_STREAMING: options.weight_streaming,
    }


def add_profile(
    builder: "trt.Builder",
    config: "trt.IBuilderConfig",
    network: "trt.INetworkDefinition",
    shapes: Mapping[str, Profile],
) -> None:
    """Give every input of a network its shapes. Raises InputError for an input without any, or a refused profile."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name not in shapes:
            raise InputError(
                f"TensorRT's network has an input {tensor.name!r} that the bundle's contract does not know"
            )
        shape = shapes[tensor.name]
        profile.set_shape(tensor.name, shape.min, shape.opt, shape.max)
    if config.add_optimization_profile(profile) < 0:
        raise InputError("TensorRT refuses the optimization profile; see its messages above")


def check_timing_cache(options: TensorRtOptions) -> None:
    """Raises InputError where the timing cache could not be written: better before the minutes of a build."""
    if options.timing_cache is None:
        return
    path = Path(options.timing_cache)
    if not path.parent.is_dir():
        raise InputError(f"timing_cache {path}: there is no folder {path.parent}; make it, or name another file")
    if path.exists() and not path.is_file():
        raise InputError(f"timing_cache {path}: not a file; name another")


def _load_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Give the builder the timings of earlier builds; a missing file is an empty cache. A cache of another GPU or
    version is not used: TensorRT refuses it, and so do we."""
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputError(f"{path}: not a timing cache for this GPU and TensorRT; name another file or remove it")


def save_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Write the timings, old and new, in one step."""
    import os

    cache = config.get_timing_cache()
    if cache is None:
        return
    staging = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        staging.write_bytes(bytes(memoryview(cache.serialize())))
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
