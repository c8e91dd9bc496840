"""What the tests of the kernels share."""

import pytest
import torch
from kernel_forms import Emulated, OnGpu


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernels(request, monkeypatch):
    """Runs the CUDA form of an op: `kernels.run(name, tensors, attributes)`. Memory that is not written shows.

    torch fills new tensors with NaN and the largest integer while it is asked to be deterministic.
    """
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    machine = OnGpu() if request.param == "cuda" else Emulated(monkeypatch)
    torch.use_deterministic_algorithms(True)
    yield machine
    torch.use_deterministic_algorithms(False)
