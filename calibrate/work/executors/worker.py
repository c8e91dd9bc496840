"""A worker process: `python -m vitcop.calibrate.work.executors.worker`, started by `Processes`.

Its standard input is one end of a connection: texts come, the factory first and then units, and outcomes go back.
It ends when the other side closes the connection: also when the process that started it was killed.
"""

import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

from vitcop.calibrate.work.executors.outcomes import Answering

GRACE_SECONDS = 5.0
"""How long a unit may take to come to a point where it can be stopped; then the process ends as it is."""


def _listen(connection: Connection, texts: "SimpleQueue[str]") -> None:
    """Put texts into the queue as they come; at their end stop this process, whatever it is doing."""
    with suppress(EOFError, OSError):
        while True:
            texts.put(connection.recv_bytes().decode("utf-8"))
    # As an exception in the main thread, so that a file that is being written does not stay under a temporary name.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _stop(number: int, frame: object) -> None:
    raise SystemExit


def main() -> None:
    """Serve until the connection ends."""
    # Interrupts are for the process that started this one, which then stops it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    connection, texts = Connection(os.dup(0)), SimpleQueue[str]()
    # Libraries may not read what is meant for us, nor may what they start keep our end open.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_listen, args=(connection, texts), daemon=True).start()
    with suppress(SystemExit, ConnectionError):
        answering = Answering(texts.get())
        while True:
            connection.send_bytes(answering.perform(texts.get()).encode("utf-8"))
    # Not through the interpreter's end, which waits for threads of libraries.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
