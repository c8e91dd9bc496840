"""Signals of child processes that tests start."""

import sys

HEEDING_INTERRUPTS = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]
"""Put before a command. A shell that runs the tests in the background has them and their children ignore SIGINT."""
