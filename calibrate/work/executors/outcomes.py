"""What crosses between an executor and a worker: texts of JSON. A unit goes out; its outcome comes back, a result or an
error that means the same on this side."""

import traceback

from vitcop.calibrate.core.strict_json import from_json, to_json
from vitcop.calibrate.work.executors.base import Factory, Json, name_of
from vitcop.calibrate.work.executors.in_process import InProcess
from vitcop.plugins.errors import GateError, InputError, MissingError

RETRIES = 2
"""How often a unit is tried again after its worker died."""

_KNOWN = {kind.__name__: kind for kind in (InputError, GateError, MissingError, MemoryError)}


class WorkerError(RuntimeError):
    """A unit raised something that nobody foresaw: a bug. The worker's own trace is in the notes."""


class Answering:
    """The worker's side: texts of units in, texts of outcomes out, by a performer that is made at the first unit.

    Args:
        factory: as `Factory.to_text` wrote it.
    """

    def __init__(self, factory: str) -> None:
        self._source = InProcess(Factory.from_text(factory))

    def perform(self, unit: str) -> str:
        """The outcome of a unit."""
        try:
            return to_json({"result": self._source.performer.perform(from_json(unit))})
        except Exception as error:  # whatever it is, the other side must hear of it
            kinds = [kind.__name__ for kind in type(error).__mro__]
            kind = next((name for name in kinds if name in _KNOWN), kinds[0])
            return to_json({"error": kind, "message": str(error), "trace": "".join(traceback.format_exception(error))})


def result_of(outcome: str) -> Json:
    """The result in an outcome; raises the error in it."""
    data = from_json(outcome)
    if "result" in data:
        return data["result"]
    if data["error"] in _KNOWN:
        raise _KNOWN[data["error"]](data["message"])
    error = WorkerError(f"{data['error']}: {data['message']}")
    error.add_note(f"In the worker:\n{data['trace']}")
    raise error


def given_up(unit: Json, deaths: int, workers: str, how: str) -> MissingError:
    """Of a unit at which workers keep dying; `how` the last one did."""
    return MissingError(
        f"unit {name_of(unit)}: {deaths} {workers} died at it (the last: {how}); if memory is short, use fewer "
        "workers or a smaller batch_size"
    )
