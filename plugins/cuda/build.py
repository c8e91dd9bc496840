"""Compile all kernels into one shared library with nvcc: `python -m vitcop.plugins.cuda.build`, or `make kernels`.

The library needs no torch and no CUDA runtime library beside the driver: the runtime is linked in.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vitcop.plugins.cuda.paths import DEFAULT_PATH
from vitcop.plugins.errors import InputError, MissingError, VitcopError

PLUGINS = Path(__file__).parent.parent
SOURCES = tuple(sorted(PLUGINS.glob("*/*.cu")))
INCLUDE = Path(__file__).parent
ARCHITECTURES = (80, 89, 90, 100, 120)
"""Compute capabilities times ten: A100, L4 and RTX 40, H100 and H200, B200, RTX 50. Others run PTX of the first."""

FLAGS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden")

LINK_FLAGS = ("-shared", "-cudart=static", "-Xlinker", "--exclude-libs=ALL")
"""The runtime's own functions stay inside: torch has its own copy of them."""


def find_nvcc() -> str:
    """The compiler: $NVCC, on the path, or in the CUDA toolkit's usual folder. Raises MissingError."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    for name in (os.environ.get("NVCC"), "nvcc", f"{home}/bin/nvcc"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise MissingError(
        "nvcc was not found: install a CUDA toolkit (12.8 or newer for compute capability 10 and 12), "
        "or name the compiler in NVCC"
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()}")


def build(out: Path, architectures: tuple[int, ...] = ARCHITECTURES, flags: tuple[str, ...] = ()) -> Path:
    """Compile SOURCES for `architectures` and link them to `out`, which appears only when it is whole.

    Raises MissingError where there is no nvcc, InputError with the compiler's words where it refuses.
    """
    nvcc = find_nvcc()
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    targets.append(f"-gencode=arch=compute_{min(architectures)},code=compute_{min(architectures)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".kernels-") as folder:
        objects = [Path(folder) / f"{source.parent.name}.o" for source in SOURCES]
        commands = [
            [nvcc, *FLAGS, *flags, *targets, f"-I{INCLUDE}", "-c", str(source), "-o", str(compiled)]
            for source, compiled in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = Path(folder) / out.name
        _run([nvcc, *LINK_FLAGS, *targets, *map(str, objects), "-o", str(linked)])
        linked.replace(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile vitcop's CUDA kernels into one shared library.")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="the library to write [%(default)s]")
    parser.add_argument(
        "--arch",
        default=",".join(map(str, ARCHITECTURES)),
        help="compute capabilities times ten, separated by commas [%(default)s]",
    )
    arguments = parser.parse_args()
    try:
        architectures = tuple(int(arch) for arch in arguments.arch.split(","))
    except ValueError:
        parser.error(f"--arch takes numbers such as 80,90, found {arguments.arch!r}")
    try:
        print(build(arguments.out, architectures))
    except VitcopError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        print(f"error: {arguments.out}: cannot write the library there ({error})", file=sys.stderr)
        sys.exit(InputError.exit_status)


if __name__ == "__main__":
    main()
