"""Measuring: does the engine answer like PyTorch (`verify`), how fast is it (`bench`). Importing loads no torch."""

from vitcop.calibrate.data.task_scores import METRICS
from vitcop.export.machine import machine_facts
from vitcop.export.measure.gates import GateResult, Gates
from vitcop.export.measure.latency import Bench, bench
from vitcop.export.measure.verification import Verification
from vitcop.export.measure.verify import verify

__all__ = [
    "METRICS",
    "Bench",
    "GateResult",
    "Gates",
    "Verification",
    "bench",
    "machine_facts",
    "verify",
]
