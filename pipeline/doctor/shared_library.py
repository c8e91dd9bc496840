"""Loading a shared library in a process of its own: one that crashes must not take the doctor with it.

`python -m vitcop.pipeline.doctor.shared_library PATH [SYMBOL ...] [--number FUNCTION]` prints one JSON object.
"""

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

_LONGEST = 60  # Seconds; the full TensorRT library has gigabytes.


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What loading gave.

    Args:
        error: one line where it cannot be loaded or lacks a symbol; None where all is well.
        number: what `number_function` returned, an int32 of C; None where it was not asked.
    """

    error: str | None = None
    number: int | None = None


def load(path: Path | str, *symbols: str, number_function: str | None = None) -> Loaded:
    """Load a library (a path, or a name that the system's loader finds) and look up symbols in it.

    Args:
        number_function: one of its functions, of no arguments, that is called for an int.
    """
    command = [sys.executable, "-m", __name__, str(path), *symbols]
    command += ["--number", number_function] if number_function else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST, check=False)
        return Loaded(**json.loads(done.stdout.splitlines()[-1])) if not done.returncode else _crash(done.returncode)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return Loaded(error=f"loading it gave {type(error).__name__}")


def _crash(status: int) -> Loaded:
    return Loaded(error=f"loading it ends the process (status {status})")


def _load_here(path: str, symbols: list[str], number_function: str | None) -> Loaded:
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        return Loaded(error=" ".join(str(error).split()))
    lacking = [name for name in (*symbols, number_function) if name and not hasattr(library, name)]
    if lacking:
        return Loaded(error=f"it exports no {', '.join(lacking)}")
    return Loaded(number=getattr(library, number_function)() if number_function else None)


def main(arguments: list[str]) -> None:
    """Print what loading gave."""
    at = arguments.index("--number") if "--number" in arguments else len(arguments)
    names, number = arguments[:at], arguments[at + 1 : at + 2]
    print(json.dumps(asdict(_load_here(names[0], names[1:], number[0] if number else None))))


if __name__ == "__main__":
    main(sys.argv[1:])
