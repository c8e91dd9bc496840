"""Everything that needs an NVIDIA GPU, in one run: `make gpu-check`.

Builds the kernels for the GPU at hand, runs the tests marked `gpu` on inputs of fresh seeds, compute-sanitizer over a
small case, benchmarks/selection.py and benchmarks/prefill_gpu.py. With TENSORRT_INCLUDE_DIR also builds the TensorRT
plugins and runs them as plugin objects, and where TensorRT is installed, in engines. Writes gpu_check.json,
selection.json and prefill_gpu.json to $OUT, or else to benchmarks/results.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import torch

from vitcop.plugins.cuda import build
from vitcop.plugins.cuda.paths import DEFAULT_PATH
from vitcop.plugins.errors import VitcopError
from vitcop.plugins.tensorrt import build as plugin_build
from vitcop.plugins.tensorrt import paths as plugin_paths

HERE = Path(__file__).parent
OUT = Path(os.environ.get("OUT", HERE / "results"))
TESTS = HERE.parent / "tests" / "plugins"
PLUGIN_TESTS = TESTS / "tensorrt_plugin"
SMALL_CASE = ("equals_reference or every_step", 240)
"""Tests to run under compute-sanitizer, and the seconds that each of its tools may take. No test among them captures a
graph: torch refuses that without its memory cache."""


def pytest_command(*options: str, tests: Path = TESTS) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(tests), *options]


def run_tests(*options: str, tests: Path = TESTS, **variables: str) -> dict:
    """The tests marked `gpu`: how many ran and what failed or was skipped."""
    report = OUT / "gpu_tests.xml"
    command = pytest_command(f"--junitxml={report}", *options, tests=tests)
    status = subprocess.run(command, env=os.environ | variables, cwd=HERE.parent).returncode
    suite = ElementTree.parse(report).getroot().find("testsuite")
    report.unlink()
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in suite.iter("testcase") if list(case)]
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    return {"status": status, **counts, "not_passed": failed}


def run_plugin_tests(architecture: int) -> dict:
    """The TensorRT plugins, built for this GPU with the headers at hand and run without and, if it is there, with
    TensorRT; says so where there are no headers."""
    include = os.environ.get(plugin_build.VARIABLE)
    if not include:
        return {"ran": False, "reason": f"{plugin_build.VARIABLE} names no headers of TensorRT"}
    # The library that `make plugin` built, for more GPUs than this one, stays as it is.
    with tempfile.TemporaryDirectory(prefix="vitcop-plugin-") as folder:
        try:
            out = Path(folder) / plugin_paths.DEFAULT_PATH.name
            library, *_ = plugin_build.build(Path(include), out, (architecture,))
            version = ".".join(map(str, plugin_build.header_version(Path(include))))
        except VitcopError as error:
            return {"ran": True, "status": error.exit_status, "reason": str(error)}
        variables = {"VITCOP_TENSORRT_INCLUDE_DIR": include, plugin_paths.VARIABLE: str(library)}
        done = run_tests(tests=PLUGIN_TESTS, **variables)
    if done["tests"] == done["skipped"]:
        done["status"] = 1
    return {"ran": True, "headers": version, **done}


def run_sanitizer(tool: str) -> dict:
    """compute-sanitizer over a small case; says so where the machine does not let it run."""
    program = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
    if program is None:
        return {"ran": False, "reason": "compute-sanitizer is not installed"}
    tests, seconds = SMALL_CASE
    command = [program, "--tool", tool, "--error-exitcode", "9", *pytest_command("-x", "-k", tests)]
    # Without torch's cache each tensor is an allocation of its own, so that its bounds are known.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"ran": False, "reason": f"not finished after {seconds} s"}
    text = done.stdout + done.stderr
    print(text[-2000:])
    if "ERROR SUMMARY" not in text and "RACECHECK SUMMARY" not in text:
        return {"ran": False, "reason": text.strip().splitlines()[-1] if text.strip() else f"status {done.returncode}"}
    return {"ran": True, "status": done.returncode, "summary": [x for x in text.splitlines() if "SUMMARY" in x]}


def run_apart(seconds: int, *command: str | Path) -> dict:
    """A step that needs more than the kernels do (transformers, 14 GB of weights), as a process of its own: whatever
    becomes of it, the other steps stand."""
    try:
        done = subprocess.run(command, env=os.environ | {"OUT": str(OUT)}, cwd=HERE.parent, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"status": 1, "reason": f"not finished after {seconds} s"}
    return {"status": done.returncode}


def driver_version() -> str:
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    if not torch.cuda.is_available():
        print("error: gpu-check needs an NVIDIA GPU that torch can use; found none", file=sys.stderr)
        return 4
    OUT.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    major, minor = torch.cuda.get_device_capability()
    try:
        build.build(DEFAULT_PATH, (10 * major + minor,))
    except VitcopError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    nvcc = subprocess.run([build.find_nvcc(), "--version"], capture_output=True, text=True).stdout
    result = {
        "machine": {
            "gpu": torch.cuda.get_device_name(),
            "compute_capability": f"{major}.{minor}",
            "driver": driver_version(),
            "torch": torch.__version__,
            "nvcc": next((line for line in nvcc.splitlines() if "release" in line), nvcc),
        },
        "build_seconds": time.monotonic() - start,
    }

    def save() -> None:
        result["seconds"] = time.monotonic() - start
        (OUT / "gpu_check.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")

    # Each step's outcome is on disk before the next begins.
    seed = secrets.randbelow(2**31)
    result["tests"] = {"seed": seed} | run_tests(f"--ignore={PLUGIN_TESTS}", VITCOP_SEED=str(seed))
    save()
    result["tensorrt_plugin"] = run_plugin_tests(10 * major + minor)
    save()
    environment = os.environ | {"OUT": str(OUT)}
    result["benchmark_status"] = subprocess.run([sys.executable, HERE / "selection.py"], env=environment).returncode
    save()
    for tool in ("memcheck", "racecheck"):
        result[tool] = run_sanitizer(tool)
        save()
    model_tests = TESTS.parent / "calibrate" / "test_gpu_runs.py"
    result["model_tests"] = run_apart(300, *pytest_command(tests=model_tests))
    save()
    result["prefill_benchmark"] = run_apart(900, sys.executable, HERE / "prefill_gpu.py")
    save()
    print(json.dumps(result, indent=2, sort_keys=True))
    bad = [result["tests"]["status"], result["benchmark_status"]]
    bad += [result[step]["status"] for step in ("model_tests", "prefill_benchmark")]
    bad += [result[step]["status"] for step in ("memcheck", "racecheck", "tensorrt_plugin") if result[step]["ran"]]
    return 1 if any(bad) else 0


if __name__ == "__main__":
    sys.exit(main())
