"""What comes back from a worker, as one line of JSON: a result, or an error that means the same on this side."""

import traceback

from vitcop.calibrate.core.strict_json import from_json, to_json
from vitcop.calibrate.work.executors.base import Json, Performer
from vitcop.plugins.errors import GateError, InputError, MissingError

_KNOWN = {kind.__name__: kind for kind in (InputError, GateError, MissingError, MemoryError)}


class WorkerError(RuntimeError):
    """A unit raised something that nobody foresaw: a bug. The worker's own trace is in the notes."""


def performed(performer: Performer, unit: Json) -> str:
    """Perform a unit; its outcome."""
    try:
        return to_json({"result": performer.perform(unit)})
    except Exception as error:  # whatever it is, the other side must hear of it
        return failed(error)


def failed(error: Exception) -> str:
    """The outcome of a unit that raised."""
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
