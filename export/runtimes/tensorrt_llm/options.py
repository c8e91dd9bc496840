"""What may be chosen about a TensorRT-LLM package."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TensorRTLLMOptions:
    """Options of the target.

    Args:
        model: the model folder that the vision graph is exported from, where it no longer lies where the bundle says.
    """

    model: str | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, str):
            raise InputError(f"model: expected the path of a model folder, found {self.model!r}")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "TensorRTLLMOptions":
        """From plain values by name. Raises InputError for an unknown name."""
        known = [item.name for item in dataclasses.fields(cls)]
        for name in values or {}:
            if name not in known:
                raise InputError(f"tensorrt-llm has no option {name!r} (known: {', '.join(known)})")
        return cls(**(values or {}))
