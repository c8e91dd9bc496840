"""From an exception to what the person sees: one line and an exit status."""

import errno
import json

from vitcop.plugins.errors import InputError, VitcopError

BUG_STATUS = 1
INTERRUPTED_STATUS = 130

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNUSABLE_PATH = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP})


def describe(error: BaseException) -> tuple[int, str]:
    """(exit status, one line) for anything that a command raised."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_STATUS, "interrupted; nothing is half-written, and a run goes on from what it had finished"
    if isinstance(error, VitcopError):
        return error.exit_status, one_line(str(error))
    known = as_input_error(error)
    if known is not None:
        return known.exit_status, one_line(str(known))
    if isinstance(error, MemoryError):
        return 4, "not enough memory on this machine"
    kind = type(error).__name__
    return BUG_STATUS, one_line(
        f"this is a bug in vitcop ({kind}: {error}); `vitcop --debug …` shows the trace to report it with"
    )


def as_input_error(error: BaseException) -> InputError | None:
    """The error as the user's input where the file system refused: a full disk, a folder that cannot be written."""
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    place = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    # Libraries written in Rust or C++ wrap the same condition in exceptions of their own.
    if number in _NO_SPACE or "No space left on device" in str(error):
        return InputError(f"no disk space left{place}; free some, or choose another output folder, and run again")
    if isinstance(error, OSError) and number in _UNUSABLE_PATH:
        return InputError(f"{error.strerror}{place}")
    return None


def one_line(text: str) -> str:
    """Text as one printable line: line breaks become spaces, other control characters are escaped."""
    text = " ".join(part for part in text.split() if part) if "\n" in text or "\r" in text else text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
