"""Performers for the tests of executors: they square numbers, and do whatever a unit asks for besides."""

import os
import signal
import time
from pathlib import Path

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.work.performing import StoredPerformer
from vitcop.plugins.errors import InputError


class Squares:
    """x → x² + offset.

    A unit may also ask for: "die_once", a file that says that it has died already; "die", always; "raises", the name
    of an error; "beats", a file that it touches until it is stopped; "says", printed to standard output;
    "long", so many more characters in the result.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.done = 0

    def perform(self, unit):
        once = unit.get("die_once")
        if unit.get("die") or (once is not None and not Path(once).exists()):
            if once is not None:
                Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if "says" in unit:
            print(unit["says"], flush=True)
        if unit.get("raises") == "InputError":
            raise InputError("sample 3: no such image")
        if unit.get("raises") == "ValueError":
            raise ValueError("unforeseen")
        while "beats" in unit:
            Path(unit["beats"]).write_text(str(time.monotonic()))
            time.sleep(0.02)
        self.done += 1
        result = {"y": unit["x"] ** 2 + self.offset, "process": os.getpid(), "done": self.done, "pair": (1, 2)}
        return {**result, "long": "x" * unit.get("long", 0)}


def make_squares(*, offset: int) -> Squares:
    return Squares(offset)


class Slow:
    """Takes a while, notes each unit that it performs in a file of its own, and keeps results in a store."""

    def __init__(self, notes: str) -> None:
        self.notes = Path(notes)

    def perform(self, unit):
        time.sleep(0.01)
        with (self.notes / f"{os.getpid()}").open("a") as file:
            file.write(f"{unit['key']}\n")
        return {"y": unit["x"] ** 2}


def make_slow(*, notes: str, store: str) -> StoredPerformer:
    return StoredPerformer(Slow(notes), Store(store))


def make_nothing() -> None:
    raise InputError("no such model folder")
