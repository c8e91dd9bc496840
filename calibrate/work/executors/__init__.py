"""Executors: where units of work are performed: in this process, in worker processes, or by Ray actors."""

from vitcop.calibrate.work.executors.base import Executor, Factory, Json, Performer
from vitcop.calibrate.work.executors.in_process import InProcess
from vitcop.calibrate.work.executors.opening import EXECUTORS, open_executor
from vitcop.calibrate.work.executors.outcomes import WorkerError
from vitcop.calibrate.work.executors.processes import Processes
from vitcop.calibrate.work.executors.ray_actors import Ray

__all__ = [
    "EXECUTORS",
    "Executor",
    "Factory",
    "InProcess",
    "Json",
    "Performer",
    "Processes",
    "Ray",
    "WorkerError",
    "open_executor",
]
