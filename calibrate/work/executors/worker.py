"""A worker process: `python -m vitcop.calibrate.work.executors.worker`, started by `Processes`.

Reads lines of JSON from its standard input, the factory first and then units; writes the outcome of each as one line
to its standard output. It ends when its input does: also when the process that started it was killed.
"""

import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from queue import SimpleQueue

from vitcop.calibrate.core.strict_json import from_json
from vitcop.calibrate.work.executors.base import Factory
from vitcop.calibrate.work.executors.outcomes import failed, performed

GRACE_SECONDS = 5.0
"""How long a unit may take to come to a point where it can be stopped; then the process ends as it is."""


def _listen(descriptor: int, lines: "SimpleQueue[str]") -> None:
    """Put lines into the queue as they come; at the end of input stop this process, whatever it is doing."""
    # By descriptor: a thread that waits inside a buffered file holds its lock while the interpreter ends.
    rest = b""
    while block := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            lines.put(line.decode("utf-8"))
    # As an exception in the main thread, so that a file that is being written does not stay under a temporary name.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _stop(number: int, frame: object) -> None:
    raise SystemExit


def _serve(lines: "SimpleQueue[str]", answers: int) -> None:
    def answer(outcome: str) -> None:
        data = outcome.encode("utf-8") + b"\n"
        while data:
            data = data[os.write(answers, data) :]

    factory = Factory.from_text(lines.get())
    try:
        performer = factory.make()
    except Exception as error:  # whatever it is, the other side must hear of it
        answer(failed(error))
        return
    while True:
        answer(performed(performer, from_json(lines.get())))


def main() -> None:
    """Serve until the input ends."""
    # Interrupts are for the process that started this one, which then stops it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    # Whatever libraries print must not come between the outcomes, nor may they read what is meant for us.
    requests, answers = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, lines), daemon=True).start()
    with suppress(SystemExit, BrokenPipeError):
        _serve(lines, answers)
    # Not through the interpreter's end, which waits for threads of libraries.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
