"""The compiled kernels as a library of C functions, called on torch tensors.

The interface is kernels.h. Arguments travel by their kind: a tensor as its address, None as a null pointer, an int as
64 bits, a float as a C float. Nothing here waits for the device.
"""

import ctypes
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from vitcop.plugins.cuda.paths import library_path
from vitcop.plugins.errors import InputError, VitcopError

ABI = 2
"""VITCOP_ABI of kernels.h, which this module follows."""

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""The codes of kernels.h; tensors of other types are converted to fp32."""

log = logging.getLogger("vitcop")


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where it is not there. Says once why the references run instead."""
    path = library_path()
    try:
        return _open(path)
    except OSError as error:
        reason = f"cannot be loaded ({error})" if path.exists() else "is not there; `make kernels` builds it"
        log.warning("token dropping on the GPU runs in plain torch operations, which is slower: %s %s", path, reason)
        return None


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    abi = library.vitcop_abi() if hasattr(library, "vitcop_abi") else 0
    if abi != ABI:
        raise OSError(f"its interface is number {abi}, this vitcop needs {ABI}: build it again with `make kernels`")
    library.vitcop_error_text.restype = ctypes.c_char_p
    return library


def _argument(value: torch.Tensor | int | float | None) -> ctypes._SimpleCData:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)


def call(name: str, *arguments: torch.Tensor | int | float | None, device: torch.device) -> None:
    """Enqueue kernel `name` on the current stream of `device`, which is given to it as the last argument.

    Raises InputError for a tensor on another device, VitcopError if the kernel cannot be launched.
    """
    elsewhere = [value.device for value in arguments if isinstance(value, torch.Tensor) and value.device != device]
    if elsewhere:
        raise InputError(f"{name}: all tensors must be on one device, found {device} and {elsewhere[0]}")
    library = load()
    assert library is not None, f"{name} was called without the library"
    on_gpu = device.type == "cuda"
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream if on_gpu else None)
    with torch.cuda.device(device if on_gpu else -1):
        status = getattr(library, name)(*map(_argument, arguments), stream)
    if status:
        text = library.vitcop_error_text(ctypes.c_int64(status)).decode()
        raise VitcopError(f"{name} could not be launched on {device}: {text} (CUDA error {status})")


def workspace(name: str, *sizes: int, device: torch.device) -> torch.Tensor:
    """The scratch memory that kernel `name` asks for. torch hands it out anew once the stream is done with it."""
    function = getattr(load(), f"{name}_workspace")
    function.restype = ctypes.c_int64
    return torch.empty(max(function(*map(_argument, sizes)), 1), dtype=torch.uint8, device=device)


def register(op: torch.library.CustomOpDef, kernel: Callable, reference: Callable) -> None:
    """On CUDA tensors `op` runs `kernel`, or where there is no library, `reference`."""

    @op.register_kernel("cuda")
    def _(*arguments):
        return (kernel if load() else reference)(*arguments)
