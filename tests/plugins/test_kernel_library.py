"""The library around the kernels: its interface, its build by nvcc, what happens without it, and that nothing waits."""

import ctypes
import logging
import re
import shutil
import subprocess

import op_cases
import pytest
import torch
from emulated import guarded
from kernel_forms import Emulated, emulated_library, forms
from torch.utils._python_dispatch import TorchDispatchMode

from vitcop.plugins.cuda import build, library
from vitcop.plugins.errors import InputError, MissingError, VitcopError
from vitcop.plugins.registry import ALL_OPS

HEADER = (build.INCLUDE / "kernels.h").read_text(encoding="utf-8")
DECLARED = re.findall(r"^(?:int|int64_t|const char\*) (vitcop_\w+)\(", HEADER, re.MULTILINE)

LAUNCHES = {
    "vision_saliency": 3,
    "density_peak_clusters": 7,
    "knorm_scores": 1,
    "knorm_select": 2,
    "score_select": 1,
    "text_query_scores": 3,
    "uniform_scores": 1,
    "random_scores": 1,
    "cluster_merge_plan": 9,
}
"""Kernels that an op launches for a row of few tokens."""

MORE_LAUNCHES = {"knorm_select": 7, "score_select": 6}
"""The same for more tokens than one block takes."""


@pytest.fixture
def on_cpu(monkeypatch):
    return Emulated(monkeypatch)


def test_every_op_has_a_cuda_form():
    assert forms().keys() == ALL_OPS.keys() == LAUNCHES.keys()
    for name in ALL_OPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vitcop::{name}", "CUDA")


def launches(on_cpu, name, num_visual):
    before = emulated_library().emulator_launches()
    on_cpu.run(name, op_cases.inputs(name, 2, num_visual), op_cases.ATTRIBUTES[name][0])
    return emulated_library().emulator_launches() - before


@pytest.mark.parametrize("name", ALL_OPS)
def test_number_of_launches(on_cpu, name):
    assert launches(on_cpu, name, 20) == launches(on_cpu, name, 130) == LAUNCHES[name]
    if name in MORE_LAUNCHES:
        assert launches(on_cpu, name, 8193) == MORE_LAUNCHES[name]


class NothingRead(TorchDispatchMode):
    """Fails where a value of a tensor reaches Python, or a shape depends on values: on a GPU, that waits for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(word in str(function) for word in ("_local_scalar_dense", "nonzero", "item", "equal.default"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL_OPS)
def test_nothing_waits_for_the_device(monkeypatch, name):
    Emulated(monkeypatch)
    monkeypatch.setattr(library, "call", lambda *arguments, device: None)  # the emulator's own copies are none of ours
    for num_visual in (0, 12):
        tensors = op_cases.inputs(name, 2, num_visual)
        with NothingRead():
            forms()[name](*tensors, *op_cases.ATTRIBUTES[name][0])


def test_nothing_read_can_fail():
    with NothingRead(), pytest.raises(AssertionError):
        bool(torch.ones(1))


@pytest.mark.parametrize("bits", [32, 64])
def test_indices_of_32_bits(bits):
    """What torch never passes, but TensorRT does."""
    kernels = emulated_library()
    scores, index, sequence = op_cases.inputs("score_select", 2, 50)
    expected = op_cases.run_torch("score_select", (scores, index, sequence), (1, 3, 0))
    dtype = torch.int32 if bits == 32 else torch.int64
    outputs = [guarded(torch.full(t.shape, -7, dtype=dtype), writable=True) for t in expected]
    arguments = (scores, 0, index.to(dtype), bits, *outputs, 2, sequence.shape[1], 50, 16, 0, None, None)
    assert kernels.vitcop_score_select(*map(library._argument, arguments)) == 0
    for want, got in zip(expected, outputs, strict=True):
        assert torch.equal(want, got.long())


def test_an_unknown_type_is_refused(on_cpu):
    arguments = (torch.zeros(4), 9, torch.arange(4), 64, *[torch.zeros(4)] * 3, 1, 4, 4, 4, 0, None)
    with pytest.raises(VitcopError, match=r"vitcop_score_select could not be launched on cpu: .* \(CUDA error 1\)"):
        library.call("vitcop_score_select", *arguments, device=torch.device("cpu"))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(InputError, match="all tensors must be on one device, found cpu and meta"):
        library.call("vitcop_random_scores", torch.zeros(1, device="meta"), device=torch.device("cpu"))


def test_without_the_library_the_reference_runs_and_says_so_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("VITCOP_KERNELS", str(tmp_path / "nowhere.so"))
    library.load.cache_clear()
    tensors = op_cases.inputs("uniform_scores", 1, 5)
    used = []

    class Op:
        def register_kernel(self, device):
            assert device == "cuda"
            return used.append

    library.register(Op(), kernel=lambda *_: "kernel", reference=lambda *_: "reference")
    with caplog.at_level(logging.WARNING, logger="vitcop"):
        assert [used[0](*tensors), used[0](*tensors)] == ["reference"] * 2
    assert len(caplog.records) == 1
    assert "make kernels" in caplog.text
    (tmp_path / "nowhere.so").write_text("not a library")
    library.load.cache_clear()
    assert library.load() is None
    assert "cannot be loaded" in caplog.text
    monkeypatch.setenv("VITCOP_KERNELS", emulated_library()._name)
    monkeypatch.setattr(library, "ABI", 0)
    library.load.cache_clear()
    assert library.load() is None
    assert "its interface is number 2, this vitcop needs 0" in caplog.text
    monkeypatch.setattr(library, "load", emulated_library)
    assert used[0](*tensors) == "kernel"
    monkeypatch.undo()
    library.load.cache_clear()


def test_nvcc_builds_all_of_the_interface(tmp_path):
    try:
        build.find_nvcc()
    except MissingError as error:
        pytest.skip(str(error))
    built = build.build(tmp_path / "kernels.so", architectures=(90,))
    loaded = ctypes.CDLL(str(built))
    assert len(DECLARED) == 15
    assert loaded.vitcop_abi() == library.ABI
    assert all(hasattr(loaded, name) for name in DECLARED)
    assert list(tmp_path.iterdir()) == [built]
    if shutil.which("nm"):
        symbols = subprocess.run(
            ["nm", "-D", "--defined-only", built], capture_output=True, text=True, check=True
        ).stdout
        exported = re.findall(r" T (\w+)", symbols)
        assert sorted(exported) == sorted(DECLARED)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'this is no compiler' >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("NVCC", str(compiler))
    with pytest.raises(InputError, match="this is no compiler"):
        build.build(tmp_path / "kernels.so")
    assert list(tmp_path.iterdir()) == [compiler]
    for name in ("NVCC", "PATH", "CUDA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    with pytest.raises(MissingError, match="nvcc was not found"):
        build.build(tmp_path / "kernels.so")
