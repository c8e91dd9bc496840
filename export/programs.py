"""Asking a program of the machine without trusting it: it may be missing, fail, or hang."""

import shutil
import subprocess

_LONGEST = 20  # Seconds; nvidia-smi takes a few where the driver has to wake up.


def output(*command: str) -> str:
    """What a program writes on stdout; "" where it is not there, fails, or takes longer than 20 s."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
