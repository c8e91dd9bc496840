"""What may be chosen about an ONNX Runtime engine, and the provider that follows from it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitcop.plugins.errors import InputError, MissingError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """Options of the target.

    Args:
        device: "cpu" or "cuda".
        threads: threads inside one operation on the CPU, or None for ONNX Runtime's own choice.
    """

    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.device not in PROVIDERS:
            raise InputError(f"device {self.device!r} is not one of {', '.join(PROVIDERS)}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise InputError(f"threads: expected a positive integer, found {self.threads!r}")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "OnnxRuntimeOptions":
        """From plain values by name. Raises InputError for an unknown name."""
        known = [item.name for item in dataclasses.fields(cls)]
        for name in values or {}:
            if name not in known:
                raise InputError(f"onnxruntime has no option {name!r} (known: {', '.join(known)})")
        return cls(**(values or {}))

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider. Raises MissingError where it is not installed."""
        import onnxruntime

        name = PROVIDERS[self.device]
        if name not in onnxruntime.get_available_providers():
            raise MissingError(
                f"the installed onnxruntime has no {name}; install onnxruntime-gpu in its place, or use --device cpu"
            )
        return name
