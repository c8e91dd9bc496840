"""The outcome of `verify`: what verify.json holds, and the verdict."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from vitcop.export.measure.gates import GateResult
from vitcop.plugins.errors import GateError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Three rungs held against each other: original, pruned PyTorch, engine.

    Args:
        bundle: which bundle: model id, config hash, schedule hash, family, float type, target.
        samples: their count and digest.
        settings: metric, batch size, answer length, seed.
        schedule_loss: original against pruned PyTorch: the price of the method.
        export_loss: pruned PyTorch against the engine: our own error.
        scores: task scores of each rung with paired intervals, over all samples and by subset.
        gates: each gate with its value and limit.
        rows: one for each sample, in the order of the samples.
        kept: which patches the engine kept of the samples that a report shows (`KeptPatches`).
        versions: of the packages that ran.
    """

    bundle: dict[str, Any]
    samples: dict[str, Any]
    settings: dict[str, Any]
    schedule_loss: dict[str, Any]
    export_loss: dict[str, Any]
    scores: dict[str, Any]
    gates: tuple[GateResult, ...]
    rows: tuple[dict[str, Any], ...]
    kept: tuple[dict[str, Any], ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """True where no gate failed."""
        return all(gate.passed is not False for gate in self.gates)

    @property
    def failed_gates(self) -> tuple[GateResult, ...]:
        """The gates that failed."""
        return tuple(gate for gate in self.gates if gate.passed is False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values. No timestamps; a number that is not finite becomes null."""
        data = {"schema_version": SCHEMA_VERSION, "passed": self.passed, **asdict(self)}
        return _plain(data)

    def to_json(self) -> str:
        """The text of verify.json, keys sorted."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def summary(self) -> str:
        """One line that ends a run."""
        count = self.samples["count"]
        if self.passed:
            held = sum(gate.passed is True for gate in self.gates)
            return f"PASSED: {held} gates on {count} samples, engine {self.bundle['target']}"
        worst = "; ".join(
            f"{gate.name} {_number(gate.value)} (limit {_number(gate.limit)})" for gate in self.failed_gates
        )
        return f"FAILED: {worst}, on {count} samples, engine {self.bundle['target']}"

    def check(self) -> None:
        """Raises GateError with the summary where a gate failed."""
        if not self.passed:
            raise GateError(self.summary())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
