"""`make plugin`: what it says where it cannot build, what it builds, and where that is found."""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_harness import HEADERS, WITHOUT_HEADERS

from vitcop.plugins.errors import InputError, MissingError
from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.tensorrt import build, paths

VERSION = "#define TRT_MAJOR_ENTERPRISE {}\n#define TRT_MINOR_ENTERPRISE {}\n"


def headers(folder, text):
    (folder / "NvInferRuntime.h").write_text("")
    (folder / "NvInferVersion.h").write_text(text)
    return folder


def test_headers_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="TENSORRT_INCLUDE_DIR: no NvInferRuntime.h in .*nowhere"):
        build.build(tmp_path / "nowhere", tmp_path / "plugin.so")
    with pytest.raises(InputError, match=r"is of TensorRT 8.6; at least 10.13 is needed"):
        build.header_version(headers(tmp_path, "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n"))
    with pytest.raises(InputError, match="cannot be read as the version"):
        build.header_version(headers(tmp_path, "nothing of the sort\n"))
    assert build.header_version(headers(tmp_path, VERSION.format(11, 1))) == (11, 1)
    assert not (tmp_path / "plugin.so").exists()


def run_build(*arguments):
    command = [sys.executable, "-m", "vitcop.plugins.tensorrt.build", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("include", "status"), [("", 4), ("/nowhere/at/all", 2)])
def test_the_command_says_one_line(include, status):
    done = run_build("--include", include)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(r"error: .*TENSORRT_INCLUDE_DIR.*\n", done.stderr)


def test_tools_that_are_missing(tmp_path, monkeypatch):
    include = headers(tmp_path, VERSION.format(11, 1))
    for name in ("NVCC", "PATH", "CUDA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    with pytest.raises(MissingError, match="cmake was not found"):
        build.build(include, tmp_path / "out" / "plugin.so")
    assert not (tmp_path / "out").exists()


def test_every_op_is_among_the_sources():
    folders = {path.parent.name for path in build.SOURCES if path.name == "tensorrt.cpp"}
    assert folders == {"saliency", "clusters", "knorm", "scores", "merge"}
    text = "".join(path.read_text(encoding="utf-8") for path in build.SOURCES)
    assert all(f'"{spec.onnx_name}"' in text for spec in ALL_OPS.values())


def test_where_the_library_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    monkeypatch.setattr(paths, "DEFAULT_PATH", tmp_path / "default.so")
    assert paths.plugin_path() is None
    (tmp_path / "default.so").write_bytes(b"one")
    assert paths.plugin_path() == tmp_path / "default.so"
    monkeypatch.setenv(paths.VARIABLE, str(tmp_path / "other.so"))
    with pytest.raises(MissingError, match=r"VITCOP_TENSORRT_PLUGIN names .*other.so, which is not there"):
        paths.plugin_path()
    (tmp_path / "other.so").write_bytes(b"two")
    assert paths.plugin_path() == tmp_path / "other.so"
    assert paths.plugin_sha256(paths.plugin_path()) == hashlib.sha256(b"two").hexdigest()


def symbols(library, *options):
    if shutil.which("nm") is None:
        pytest.skip("no nm, which lists the symbols of a library")
    done = subprocess.run(["nm", "-D", *options, library], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The library for one architecture, or the one that is there already."""
    if paths.plugin_path() is not None:
        return paths.plugin_path()
    if not HEADERS:
        pytest.skip(WITHOUT_HEADERS)
    try:
        return build.build(HEADERS[0], tmp_path_factory.mktemp("plugin") / "plugin.so", architectures=(90,))[0]
    except MissingError as error:
        pytest.skip(str(error))


def test_two_functions_are_exported_and_nothing_of_tensorrt_is_needed(built):
    assert sorted(symbols(built, "--defined-only")) == ["getCreators", "setLoggerFinder"]
    needed = symbols(built, "--undefined-only")
    assert not [
        name for name in needed if "nvinfer" in name.lower() or name.startswith(("getPlugin", "cuda", "vitcop"))
    ]


def test_gpu_check_leaves_the_library_of_make_plugin_alone(monkeypatch, tmp_path):
    program = Path(__file__).parents[3] / "benchmarks" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", program)
    gpu_check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_check)
    used = []

    def build(include, out, architectures):
        out.write_bytes(b"library")
        return [out]

    def run_tests(**variables):
        used.append(Path(variables[gpu_check.plugin_paths.VARIABLE]))
        assert used[0].is_file()
        return {"tests": 2, "skipped": 0, "status": 0}

    monkeypatch.setattr(gpu_check.plugin_build, "build", build)
    monkeypatch.setattr(gpu_check.plugin_build, "header_version", lambda include: (11, 1))
    monkeypatch.setattr(gpu_check, "run_tests", run_tests)
    monkeypatch.setenv(gpu_check.plugin_build.VARIABLE, str(tmp_path))
    assert gpu_check.run_plugin_tests(90)["status"] == 0
    assert used[0].parent != gpu_check.plugin_paths.DEFAULT_PATH.parent and not used[0].exists()
