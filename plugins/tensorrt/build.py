"""Compile the TensorRT plugins with CMake: `make plugin TENSORRT_INCLUDE_DIR=…`, or `python -m` this module.

Only the headers of TensorRT are needed, 10.13 or newer, of any version: the library loads into 10 and 11 alike.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vitcop.plugins.cuda.build import ARCHITECTURES, INCLUDE, PLUGINS, find_nvcc
from vitcop.plugins.cuda.build import SOURCES as KERNELS
from vitcop.plugins.errors import InputError, MissingError, VitcopError
from vitcop.plugins.tensorrt.paths import DEFAULT_PATH, REGISTERING_PATH

HERE = Path(__file__).parent
REGISTRATION = HERE / "registration.cpp"
SOURCES = (*sorted(set(HERE.glob("*.cpp")) - {REGISTRATION}), *sorted(PLUGINS.glob("*/tensorrt.cpp")), *KERNELS)
"""What the library is made of, kernels included."""

INCLUDES = (INCLUDE, HERE)

LEAST_VERSION = (10, 13)
VARIABLE = "TENSORRT_INCLUDE_DIR"


def header_version(include: Path) -> tuple[int, int]:
    """(major, minor) of the TensorRT headers in a folder. Raises InputError where there are none that can be used."""
    file = include / "NvInferVersion.h"
    if not (include / "NvInferRuntime.h").is_file() or not file.is_file():
        raise InputError(
            f"{VARIABLE}: no NvInferRuntime.h in {include}; name the folder of TensorRT's headers, for example "
            f"TensorRT-11.1/include"
        )
    text = file.read_text(encoding="utf-8", errors="replace")
    # The numbers stand in TRT_MAJOR_ENTERPRISE from 10.11 on, to which NV_TENSORRT_MAJOR refers.
    names = ("MAJOR", "MINOR")
    patterns = [rf"^#define (?:TRT_{name}_ENTERPRISE|NV_TENSORRT_{name}) (\d+)" for name in names]
    found = [int(match[1]) for pattern in patterns if (match := re.search(pattern, text, re.MULTILINE))]
    if len(found) < len(names):
        raise InputError(f"{file}: cannot be read as the version of TensorRT's headers")
    version = (found[0], found[1])
    if version < LEAST_VERSION:
        raise InputError(f"{VARIABLE}: {include} is of TensorRT {version[0]}.{version[1]}; at least 10.13 is needed")
    return version


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()}")


def build(
    include: Path,
    out: Path = DEFAULT_PATH,
    architectures: tuple[int, ...] = ARCHITECTURES,
    libraries: Path | None = None,
    registering_out: Path = REGISTERING_PATH,
) -> list[Path]:
    """Compile for `architectures` and put the library at `out`, where it appears only when it is whole.

    libraries: the folder of libnvinfer.so; with it the library that registers itself is built too. Returns what was
    built. Raises MissingError where a tool is missing, InputError where the headers or the compiler refuse.
    """
    header_version(include)
    cmake = shutil.which("cmake")
    if cmake is None:
        raise MissingError("cmake was not found: install CMake 3.24 or newer (a package of that name is on PyPI too)")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".plugin-") as folder:
        settings = {
            "CMAKE_CUDA_COMPILER": find_nvcc(),
            VARIABLE: include.absolute(),
            "CUDA_ARCHITECTURES": ";".join(map(str, architectures)),
            "TENSORRT_LIBRARY_DIR": libraries.absolute() if libraries else "",
        }
        _run([cmake, "-S", HERE, "-B", folder, *(f"-D{name}={value}" for name, value in settings.items())])
        _run([cmake, "--build", folder, "--parallel", str(os.cpu_count() or 1)])
        targets = {"vitcop_tensorrt": out} | ({"vitcop_tensorrt_registering": registering_out} if libraries else {})
        for target, path in targets.items():
            (Path(folder) / f"lib{target}.so").replace(path)
    return list(targets.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile vitcop's TensorRT plugins into one shared library.")
    parser.add_argument("--include", default=os.environ.get(VARIABLE), help=f"folder of NvInfer.h [{VARIABLE}]")
    parser.add_argument("--libraries", help="folder of libnvinfer.so: builds the self-registering library too")
    parser.add_argument("--out", type=Path, default=DEFAULT_PATH, help="the library to write [%(default)s]")
    parser.add_argument(
        "--arch",
        default=";".join(map(str, ARCHITECTURES)),
        help="compute capabilities times ten, separated by semicolons or commas [%(default)s]",
    )
    arguments = parser.parse_args()
    try:
        architectures = tuple(int(arch) for arch in re.split("[;,]", arguments.arch))
    except ValueError:
        parser.error(f"--arch takes numbers such as 80;90, found {arguments.arch!r}")
    try:
        if not arguments.include:
            raise MissingError(f"name the folder of TensorRT's headers: make plugin {VARIABLE}=…/include")
        libraries = Path(arguments.libraries) if arguments.libraries else None
        for path in build(Path(arguments.include), arguments.out, architectures, libraries):
            print(path)
    except VitcopError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        print(f"error: {arguments.out}: cannot write the library there ({error})", file=sys.stderr)
        sys.exit(InputError.exit_status)


if __name__ == "__main__":
    main()
