"""doctor: every row where the machine has the part and where it has not, without installing any."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from vitcop.pipeline.doctor import Examination, Row, examination, examine, gpu, shared_library, tensorrt
from vitcop.pipeline.recipe import load_recipe
from vitcop.plugins.tensorrt.paths import VARIABLE

ROWS = (
    "vitcop",
    "Python",
    "torch",
    "CUDA of torch",
    "transformers",
    "onnx",
    "driver",
    "GPU",
    "CUDA kernels",
    "onnxruntime",
    "providers",
    "CUDA provider",
    "TensorRT bindings",
    "TensorRT libraries",
    "TensorRT plugin",
    "nvcc",
    "tensorrt-llm",
    "flash-attn",
    "free disk",
    "free memory",
)

SMI = """\
| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0     |
"""

COMPILER = shutil.which("cc")  # Looked up before a test takes the machine's programs away.

PLUGIN_SOURCE = "void* getCreators(int* n) { *n = 0; return 0; }\nvoid setLoggerFinder(void* f) { (void)f; }\n"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing but Python."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    for module in (examination, tensorrt):
        monkeypatch.setattr(module, "version_of", lambda name: "not installed")
    for module in (gpu, tensorrt):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt, "plugin_path", lambda: None)
    monkeypatch.setattr(examination, "library_path", lambda: Path("nowhere"))
    monkeypatch.setattr(examination, "_providers", list)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What programs answer, by a word of their command line; others are not there."""
    answers: dict[str, str] = {}

    def answer(*command: str) -> str:
        return next((text for word, text in answers.items() if any(word in part for part in command)), "")

    monkeypatch.setattr(gpu, "output", answer)
    return answers


def build_library(folder: Path, source: str) -> Path:
    if COMPILER is None:
        pytest.skip("no C compiler (cc) to build a small shared library with")
    (folder / "library.c").write_text(source)
    path = folder / "library.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", str(path), str(folder / "library.c")], check=True)
    return path


def add(project: Path, text: str) -> Path:
    with (project / "recipe.yaml").open("a") as file:
        file.write(text)
    return project / "recipe.yaml"


def rows_of(project: Path, text: str = "") -> dict[str, Row]:
    return {row.name: row for row in examine(load_recipe(add(project, text))).rows}


def test_every_row(invoke):
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert tuple(rows) == ROWS and found["missing"] == []
    assert all(row["purpose"] for row in rows.values())
    assert all(row["remedy"] for row in rows.values() if row["found"] is None)
    assert not any(row["required"] for row in rows.values())
    assert rows["torch"]["found"] and "CPUExecutionProvider" in rows["providers"]["found"]
    assert invoke("doctor").stdout.splitlines()[0].split() == ["found", "needed", "for", "if", "missing"]


def test_nothing_but_python(invoke, bare):
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    assert {name for name, row in rows.items() if row["found"]} == {"vitcop", "Python", "free disk", "free memory"}
    for row in rows.values():
        assert "://" not in row["remedy"]


def test_recipe_that_runs_here(invoke, project):
    assert invoke("doctor", "--recipe", project / "recipe.yaml").exit_code == 0


def test_recipe_that_needs_more(invoke, project, bare):
    add(project, "build:\n  target: tensorrt\nattn: flash_attention_2\n")
    result = invoke("doctor", "--recipe", project / "recipe.yaml")
    assert result.exit_code == 4
    last = result.stderr.splitlines()[-1]
    assert last.startswith("vitcop: error: missing: ")
    for words in (
        "torch (pip install torch)",
        "driver (",
        "GPU (",
        "TensorRT bindings (pip install 'vitcop[tensorrt]'",
        "TensorRT libraries (",
        "TensorRT plugin (make plugin",
        "nvcc (",
        "flash-attn (",
    ):
        assert words in last
    assert "; tensorrt-llm (" not in last and "CUDA provider" not in last
    assert "MISSING" in result.stdout


def test_target_that_packages_and_does_not_run(invoke, project):
    """A recipe measures what it builds, and there is nothing here that could run the package."""
    result = invoke("doctor", "--recipe", add(project, "build:\n  target: tensorrt-llm\n"))
    assert result.exit_code == 4
    assert "missing: target tensorrt-llm (target tensorrt-llm packages a bundle" in result.stderr.splitlines()[-1]


def test_target_that_this_version_cannot_build(project, monkeypatch):
    """Even where the machine has all that the target needs."""
    monkeypatch.setattr(examination, "target_names", lambda: ("onnxruntime",))
    row = rows_of(project, "build:\n  target: tensorrt\n")["target tensorrt"]
    assert row.found is None and row.required
    assert row.remedy == "this version of vitcop cannot build for it; available: onnxruntime"


@pytest.mark.parametrize(
    ("text", "needed", "not_needed"),
    [
        ("", {"torch", "onnxruntime", "providers"}, {"GPU", "driver", "nvcc", "TensorRT plugin", "CUDA of torch"}),
        ("device: cuda\n", {"GPU", "driver", "CUDA provider", "CUDA of torch"}, {"TensorRT libraries", "flash-attn"}),
        (
            "build:\n  options:\n    device: cuda\n",
            {"GPU", "CUDA provider"},
            {"CUDA of torch"},  # torch runs on the CPU, the engine on the GPU.
        ),
        ("build:\n  target: tensorrt\n", {"GPU", "TensorRT libraries", "TensorRT plugin"}, {"onnxruntime"}),
        ("build:\n  target: tensorrt-llm\n", {"torch"}, {"tensorrt-llm", "GPU", "TensorRT libraries", "nvcc"}),
        ("attn: flash_attention_2\n", {"flash-attn"}, {"GPU"}),
    ],
)
def test_what_a_recipe_needs(project, text, needed, not_needed):
    rows = rows_of(project, text)
    assert {name for name in needed | not_needed if rows[name].required} == needed


def test_gpu_rows(programs):
    assert (gpu.driver(), gpu.gpus(), gpu.nvcc()) == (None, None, None)
    programs |= {
        "driver_version": "580.65.06\n580.65.06\n",
        "compute_cap": "NVIDIA H200, 9.0, 143771 MiB\nNVIDIA H200, 9.0, 143771 MiB\n",
        "nvidia-smi": SMI,
        "--version": "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n",
    }
    assert gpu.driver() == "580.65.06 (runs CUDA up to 13.0)"
    assert gpu.gpus() == "2x NVIDIA H200 (sm_90, 143771 MiB)"
    assert gpu.nvcc() == "release 13.0, V13.0.88"


def test_programs_that_fail_or_hang(tmp_path, monkeypatch):
    from vitcop.export import programs

    monkeypatch.setattr(programs, "_LONGEST", 0.2)
    for name, body in (("fails", "echo text; exit 3"), ("hangs", "sleep 5"), ("works", "echo text")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [programs.output(name) for name in ("fails", "hangs", "works", "is-not-there")] == ["", "", "text\n", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("cuda: str | None = '13.0'\nhip = None\n", "13.0"), ("cuda = None\n", None), ("x = 1\n", None)],
)
def test_cuda_of_torch(tmp_path, monkeypatch, text, expected):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemError('imported')\n")
    (tmp_path / "torch" / "version.py").write_text(text)
    spec = type("Spec", (), {"origin": str(tmp_path / "torch" / "__init__.py")})
    monkeypatch.setattr(gpu, "find_spec", lambda name: spec)
    assert gpu.torch_cuda() == expected


def test_cuda_of_the_torch_that_is_here():
    import torch

    assert gpu.torch_cuda() == torch.version.cuda


def test_tensorrt_bindings(monkeypatch, bare):
    assert tensorrt.bindings() == (None, "")
    versions = {"tensorrt-cu13-bindings": "11.4.0.106"}
    monkeypatch.setattr(tensorrt, "version_of", lambda name: versions.get(name, "not installed"))
    assert tensorrt.bindings() == ("11.4.0.106", "")
    versions["tensorrt-cu13-bindings"] = "10.13.3.9"
    assert tensorrt.bindings() == (None, "10.13.3.9 is older than 10.15")


@pytest.mark.parametrize(
    ("number", "found", "trouble"),
    [(110_400, "11.4.0 ({path})", ""), (101_303, None, "10.13.3 ({path}) is older than 10.15")],
)
def test_tensorrt_libraries(tmp_path, monkeypatch, bare, number, found, trouble):
    path = build_library(
        tmp_path, f"int getInferLibVersion(void) {{ return {number}; }}\nvoid createInferBuilder_INTERNAL(void) {{}}\n"
    )
    monkeypatch.setattr("ctypes.util.find_library", lambda name: str(path))
    expected = (found and found.format(path=path), trouble.format(path=path))
    assert tensorrt.libraries() == expected


def test_a_broken_library_does_not_hide_a_sound_one(tmp_path, monkeypatch, bare):
    sound = build_library(
        tmp_path, "int getInferLibVersion(void) { return 110400; }\nvoid createInferBuilder_INTERNAL(void) {}\n"
    )
    broken = tmp_path / "libnvinfer.so.11"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(tensorrt, "_places", lambda: [str(broken), str(sound)])
    assert tensorrt.libraries() == (f"11.4.0 ({sound})", "")
    monkeypatch.setattr(tensorrt, "_places", lambda: [str(broken)])
    assert tensorrt.libraries()[0] is None and str(broken) in tensorrt.libraries()[1]


def test_tensorrt_libraries_of_the_lean_runtime_alone(monkeypatch, bare):
    assert tensorrt.libraries() == (None, "")
    monkeypatch.setattr(tensorrt, "version_of", lambda name: "11.4" if "lean-cu13" in name else "not installed")
    found, trouble = tensorrt.libraries()
    assert found is None and trouble == "tensorrt-lean-cu13-libs 11.4 is there, but it only runs engines"


def test_tensorrt_library_without_a_builder(tmp_path, monkeypatch, bare):
    path = build_library(tmp_path, "int getInferLibVersion(void) { return 110400; }\n")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: str(path))
    assert tensorrt.libraries() == (None, f"{path}: it exports no createInferBuilder_INTERNAL")


def test_plugin_that_loads(tmp_path, monkeypatch):
    path = build_library(tmp_path, PLUGIN_SOURCE)
    monkeypatch.setenv(VARIABLE, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert tensorrt.plugin() == (f"sha256 {digest}, loads ({path})", "")


def test_plugin_that_is_missing_or_does_not_load(tmp_path, monkeypatch, invoke):
    path = tmp_path / "plugin.so"
    monkeypatch.setenv(VARIABLE, str(path))
    found, trouble = tensorrt.plugin()
    assert found is None and f"{path}, which is not there" in trouble
    path.write_bytes(b"no library")
    found, trouble = tensorrt.plugin()
    assert found is None and trouble.startswith(f"{path}: ")
    row = next(row for row in examine().rows if row.name == "TensorRT plugin")
    assert row.found is None and row.remedy.startswith(trouble) and "make plugin" in row.remedy


def test_library_that_lacks_a_symbol_or_kills_the_process(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    lacking = build_library(tmp_path / "a", "void getCreators(void) {}\n")
    assert shared_library.load(lacking, *tensorrt.ENTRY_POINTS).error == "it exports no setLoggerFinder"
    source = "#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }\n"
    killer = build_library(tmp_path / "b", source)
    assert shared_library.load(killer).error == "loading it ends the process (status -6)"


def test_flash_attention_says_what_it_is_for():
    row = next(row for row in examine().rows if row.name == "flash-attn")
    assert "--attn flash_attention_2" in row.purpose and not row.required


def test_examination():
    rows = (
        Row(name="a", found=None, purpose="x", required=True),
        Row(name="b", found=None, purpose="x"),
        Row(name="c", found="1", purpose="x", required=True),
    )
    assert [row.name for row in Examination(rows=rows).missing] == ["a"]
