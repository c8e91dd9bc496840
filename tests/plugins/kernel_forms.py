"""The CUDA form of every op, run on a GPU or, thread by thread, on the CPU (see `emulated`)."""

import ctypes
import functools
import importlib
import os

import emulated
import torch

from vitcop.plugins.cuda import build, library

SEED = int(os.environ.get("VITCOP_SEED", "0"))
"""Added to the seeds of the tests: another one draws other inputs."""

FOLDERS = ("saliency", "clusters", "knorm", "scores", "merge")


def forms():
    """The functions of all `plugins/<folder>/cuda.py` by the name of their op."""
    found = {}
    for folder in FOLDERS:
        definition = importlib.import_module(f"vitcop.plugins.{folder}.definition")
        module = importlib.import_module(f"vitcop.plugins.{folder}.cuda")
        found |= {spec.torch_name: getattr(module, spec.torch_name) for spec in definition.SPECS}
    return found


@functools.cache
def emulated_library():
    """The kernels as g++ builds them."""
    loaded = emulated.load(emulated.library(build.SOURCES, [build.INCLUDE]))
    loaded.vitcop_error_text.restype = ctypes.c_char_p
    return loaded


class Emulated:
    """Every tensor that a kernel gets lies between forbidden pages; threads run in an order that `seed` gives."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch):
        self.library, self.call = emulated_library(), library.call
        monkeypatch.setattr(library, "load", emulated_library)
        monkeypatch.setattr(library, "call", self._guarded_call)

    def seed(self, seed):
        self.library.emulator_seed(seed)

    def run(self, name, tensors, attributes, seed=0):
        self.seed(seed)
        outputs = forms()[name](*tensors, *attributes)
        return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

    def _guarded_call(self, name, *arguments, device):
        # A tensor with strides of its own must stay where it is; the others are copied to guarded memory and back.
        guarded = {
            place: emulated.guarded(value, writable=True)
            for place, value in enumerate(arguments)
            if isinstance(value, torch.Tensor) and value.is_contiguous()
        }
        try:
            self.call(name, *[guarded.get(i, value) for i, value in enumerate(arguments)], device=device)
        finally:
            emulated.check(self.library, 0)
        for place, copy in guarded.items():
            emulated.check_surroundings(copy)
            arguments[place].copy_(copy)


class OnGpu:
    """Through the torch.library op, as a model runs it."""

    device = torch.device("cuda")

    def __init__(self):
        assert library.load() is not None, "the kernels are not built: make kernels"

    def seed(self, seed):
        pass

    def run(self, name, tensors, attributes, seed=0):
        there = [t.to(self.device) if isinstance(t, torch.Tensor) else t for t in tensors]
        outputs = getattr(torch.ops.vitcop, name)(*there, *attributes)
        return [t.cpu() for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
