"""The executor that a command asks for by name."""

from collections.abc import Sequence

from vitcop.calibrate.work.executors.base import Executor, Factory
from vitcop.calibrate.work.executors.in_process import InProcess
from vitcop.calibrate.work.executors.processes import Processes
from vitcop.calibrate.work.executors.ray_actors import Ray
from vitcop.plugins.errors import InputError

EXECUTORS = ("local", "ray")


def open_executor(
    name: str, factory: Factory, *, num_workers: int | None = None, device: str = "cpu", address: str | None = None
) -> Executor:
    """ "local" is this process where no number of workers is given, else so many processes; "ray" is Ray.

    On device "cuda" each worker has one GPU to itself: processes share out those that this process sees, and may be no
    more than those.

    Raises InputError for another name or an impossible number, MissingError where Ray or a GPU is missing.
    """
    if name not in EXECUTORS:
        raise InputError(f"executor {name!r} is not known; use {' or '.join(EXECUTORS)}")
    on_gpus = device.split(":")[0] == "cuda"
    if name == "ray":
        return Ray(factory, num_workers, address=address, gpus=on_gpus)
    if num_workers is None:
        return InProcess(factory)
    return Processes(factory, num_workers, environments=_gpus(num_workers) if device == "cuda" else ())


def _gpus(num_workers: int) -> Sequence[dict[str, str]]:
    """For each GPU that this process sees, the variables of a worker that sees it alone."""
    import os

    import torch

    count = torch.cuda.device_count()
    if num_workers > max(count, 1):
        raise InputError(f"workers: {num_workers} are more than the {count} GPUs of this machine")
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in (named or map(str, range(count)))][:num_workers]
