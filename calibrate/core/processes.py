"""Whether the process that left a temporary name behind still runs."""

import os


def is_running(process: int) -> bool:
    """Whether a process of this id runs on this machine, whoever owns it."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
