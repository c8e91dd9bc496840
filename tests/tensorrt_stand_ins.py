"""NVIDIA's real Python bindings of TensorRT on a machine that has no TensorRT.

The wheel `tensorrt-cu13-bindings` needs three libraries of TensorRT by name. Here they are built from a few lines of C:
makers of builders and parsers that return nothing. Where the wheel `tensorrt-lean-cu13-libs` is installed too, the
plugin registry is NVIDIA's own, out of its lean runtime.

environment = stand_in_environment(tmp_path)
run(environment, "import tensorrt as trt; print(trt.__version__)")

Only ever in a process of its own: libraries of the real names must not lie in the memory of the tests.
"""

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BINDINGS, LEAN = "tensorrt-cu13-bindings", "tensorrt-lean-cu13-libs"
"""The wheels, which bring the packages `tensorrt_bindings` and `tensorrt_lean_libs`."""

NVINFER = """
void* createInferBuilder_INTERNAL(void) { return 0; }
void* createInferRefitter_INTERNAL(void) { return 0; }
void* createInferRuntime_INTERNAL(void) { return 0; }
void* getBuilderPluginRegistry(void) { return 0; }
#ifndef LEAN
void* getPluginRegistry(void) { return 0; }
#endif
"""
"""What the bindings ask of libnvinfer. Its plugin registry is in the lean runtime too, where that is linked in."""

OTHERS = {
    "nvonnxparser": """
void* createNvOnnxParser_INTERNAL(void) { return 0; }
void* createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
""",
    "nvinfer_plugin": "int initLibNvInferPlugins(void) { return 0; }\n",
}

ALIAS = "import sys\n\nimport tensorrt_bindings\n\nsys.modules[__name__] = tensorrt_bindings\n"
"""The package `tensorrt`, which is in none of the two wheels, but which `tensorrt_bindings.plugin` imports."""


def distribution(name: str, packages: Path | None = None) -> importlib.metadata.Distribution | None:
    """The installed wheel of this name, in the folder `packages` (of `pip install --target`) or where Python looks."""
    where = {} if packages is None else {"path": [str(packages)]}
    return next(iter(importlib.metadata.distributions(name=name, **where)), None)


def bindings_version(packages: Path | None = None) -> str:
    """The version of the bindings, e.g. "11.4.0.106". Skips the test where there are none."""
    found = distribution(BINDINGS, packages)
    if found is None:
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        pytest.skip(f"{BINDINGS} is not installed (the test extra brings it for Linux; here is {machine})")
    return found.version


def lean_library(packages: Path | None = None) -> Path | None:
    """NVIDIA's lean runtime, or None where its wheel is not installed or of another major version."""
    major = bindings_version(packages).split(".")[0]
    found = distribution(LEAN, packages)
    path = found and Path(found.locate_file(f"tensorrt_lean_libs/libnvinfer_lean.so.{major}"))
    return path if path and path.exists() else None


@functools.cache
def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang", "g++"):
        if name and shutil.which(name):
            return name
    pytest.skip("no C compiler, which builds the stand-ins of TensorRT's libraries")


def _build(source: str, library: Path, *options: str) -> None:
    compile_it = [_compiler(), "-x", "c", "-", "-x", "none", "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    done = subprocess.run([*compile_it, *options, "-o", library], input=source, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{_compiler()} failed:\n{done.stderr}")


def stand_in_environment(folder: Path, packages: Path | None = None) -> dict[str, str]:
    """The environment of a process that can `import tensorrt` (and `tensorrt_bindings`): builds what it needs there.

    packages: a folder of `pip install --target` whose bindings (and lean runtime) are meant instead of the installed
    ones. Skips the test where there are no bindings or no C compiler.
    """
    major = bindings_version(packages).split(".")[0]
    lean = lean_library(packages)
    libraries, modules = folder / "lib", folder / "modules"
    libraries.mkdir(parents=True, exist_ok=True)
    with_lean = ["-DLEAN", "-Wl,--no-as-needed", str(lean), f"-Wl,-rpath,{lean.parent}"] if lean else []
    _build(NVINFER, libraries / f"libnvinfer.so.{major}", *with_lean)
    for name, source in OTHERS.items():
        _build(source, libraries / f"lib{name}.so.{major}")
    (modules / "tensorrt").mkdir(parents=True, exist_ok=True)
    (modules / "tensorrt" / "__init__.py").write_text(ALIAS, encoding="utf-8")
    environment = dict(os.environ)
    for variable, entries in (("LD_LIBRARY_PATH", [libraries]), ("PYTHONPATH", [modules, packages])):
        present = [os.environ[variable]] if os.environ.get(variable) else []
        environment[variable] = os.pathsep.join([*(str(entry) for entry in entries if entry), *present])
    return environment


def run(environment: dict[str, str], code: str, *arguments: str | Path) -> str:
    """What `code` prints, in a Python process of its own. Raises with what it complained about where it fails."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout
