"""CUDA kernels on the CPU: builds kernel sources with the emulator in `cuda_emulator/`, and guards their memory.

library = emulated.load(emulated.library([ROOT / "plugins/knorm/kernel.cu"], [ROOT / "plugins/cuda"]))
library.emulator_seed(3)
keys = emulated.guarded(keys)  # read-only, between pages that nobody may touch
scores = emulated.guarded_empty((2, 9), torch.float32)  # poisoned
status = library.vitcop_knorm_scores(keys.data_ptr(), ..., scores.data_ptr(), ..., None)
emulated.check(library, status)
"""

import ctypes
import functools
import hashlib
import math
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

EMULATOR = Path(__file__).parent / "cuda_emulator"

COMMON_FLAGS = ("-std=c++17", "-O1", "-g0", "-fPIC", "-Wall", "-Werror", "-fmax-errors=5", "-ffp-contract=off")
KERNEL_FLAGS = (
    *COMMON_FLAGS,
    # The GPU's compiler allows memory to be read as another type, for loads of 16 bytes.
    "-fno-strict-aliasing",
    # `#pragma unroll` is the GPU compiler's.
    "-Wno-unknown-pragmas",
    # Two libraries in one process must not share the shared memory of a template that both have.
    "-fno-gnu-unique",
    # Large local variables must not leap over the page that ends a fiber's stack.
    "-fstack-clash-protection",
    # Checks whose failures the emulator reports (undefined.cpp).
    "-fsanitize=alignment,bounds,float-cast-overflow,integer-divide-by-zero,shift-exponent,signed-integer-overflow",
)
LINK_FLAGS = (
    "-shared",
    # Every library uses its own copy of the emulator, and lacks nothing.
    "-Wl,-Bsymbolic,-z,defs",
    # Of its own until glibc 2.34.
    "-ldl",
)


@functools.cache
def _compiler() -> tuple[str, str]:
    path = shutil.which("g++")
    if path is None:
        pytest.skip("no g++, which builds the kernels for the CPU")
    return path, subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"vitcop-cuda-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def _run(arguments: Sequence[str | Path]) -> bytes:
    done = subprocess.run([_compiler()[0], *map(str, arguments)], capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"g++ failed:\n{done.stderr.decode(errors='replace')}")
    return done.stdout


def _made(name: str, suffix: str, arguments: Sequence[str | Path]) -> Path:
    """The file of this name, made by g++ unless it is there. Renamed into place, as another process may make it too."""
    path = _folder() / f"{name}{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as own:
            _run([*arguments, "-o", Path(own) / path.name])
            (Path(own) / path.name).rename(path)
    return path


def _object(source: Path, flags: Sequence[str]) -> Path:
    """The compiled source; its name is a hash of the text that the preprocessor makes of it, headers and all."""
    compile_it = ["-x", "c++", *flags, source]
    text = _run([*compile_it, "-E"])
    # Where headers are looked for does not count, as they are in the text.
    other_flags = [flag for flag in flags if not flag.startswith(("-I", "-isystem"))]
    key = hashlib.sha256("\0".join([_compiler()[1], *other_flags]).encode() + text).hexdigest()
    return _made(key[:32], ".o", [*compile_it, "-c"])


def library(
    sources: Sequence[Path], include_dirs: Sequence[Path] = (), foreign_include_dirs: Sequence[Path] = ()
) -> Path:
    """A shared library of the kernels in `sources` and the emulator that runs them. Warnings about headers in
    `foreign_include_dirs` are nobody's here."""
    flags = [*KERNEL_FLAGS, f"-I{EMULATOR}", *(f"-I{folder}" for folder in include_dirs)]
    flags += [f"-isystem{folder}" for folder in foreign_include_dirs]
    _compiler()  # skips here, not in a thread
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_object, source, flags) for source in sources]
        jobs += [pool.submit(_object, source, COMMON_FLAGS) for source in sorted(EMULATOR.glob("emulated/*.cpp"))]
        objects = [job.result() for job in jobs]
    key = hashlib.sha256("\0".join([*LINK_FLAGS, *(path.name for path in objects)]).encode()).hexdigest()
    return _made(key[:32], ".so", [*objects, *LINK_FLAGS])


def load(path: Path) -> ctypes.CDLL:
    """The library, with the types of the emulator's own functions; those of the kernels' launchers are up to you."""
    loaded = ctypes.CDLL(str(path))
    loaded.emulator_seed.argtypes = [ctypes.c_uint64]
    loaded.emulator_seed.restype = loaded.emulator_reset.restype = None
    loaded.emulator_error.restype = loaded.cudaGetErrorName.restype = ctypes.c_char_p
    loaded.emulator_launches.restype = loaded.emulator_switches.restype = ctypes.c_uint64
    return loaded


def check(loaded: ctypes.CDLL, status: int) -> None:
    """Raises if a launcher returned an error, or anything went wrong on the way, and forgets the error."""
    error = loaded.emulator_error().decode()
    if status != 0 or error:
        loaded.emulator_reset()
        raise AssertionError(f"{loaded.cudaGetErrorName(status).decode()}: {error}")


# mmap's, which Python has no names for.
PROT_NONE, PROT_READ = 0, 1
ALIGNMENT = 16
POISON = 0xCD


def _guarded_bytes(size: int, flush: str) -> tuple[mmap.mmap, int, int]:
    """Poisoned memory between two pages that nobody may touch: the mapping, its address, where in it `size` bytes go.

    They begin at a multiple of 16, as allocations on a GPU do; so their end may be up to 15 bytes before the page.
    """
    page = mmap.PAGESIZE
    middle = math.ceil(size / page) * page
    memory = mmap.mmap(-1, middle + 2 * page)
    memory[:] = bytes([POISON]) * len(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _protect(address, page, PROT_NONE)
    _protect(address + page + middle, page, PROT_NONE)
    offset = {"begin": 0, "end": middle - math.ceil(size / ALIGNMENT) * ALIGNMENT}[flush]
    return memory, address, page + offset


def _protect(address: int, size: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded(tensor: torch.Tensor, *, flush: str = "end", writable: bool = False) -> torch.Tensor:
    """A contiguous copy whose end (or begin) touches forbidden memory, so that a kernel which leaves it faults.

    Unless `writable`, writing into it faults as well: in a kernel that is an error, in Python the end of the process.
    """
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return tensor.clone()  # its address is null
    memory, address, offset = _guarded_bytes(size, flush)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
    copy.copy_(tensor)
    if not writable:
        _protect(address + mmap.PAGESIZE, len(memory) - 2 * mmap.PAGESIZE, PROT_READ)
    return copy


def guarded_empty(shape: Sequence[int], dtype: torch.dtype, *, flush: str = "end") -> torch.Tensor:
    """A guarded tensor to write into, poisoned: what a kernel leaves out shows."""
    poison = torch.full((math.prod(shape) * dtype.itemsize,), POISON, dtype=torch.uint8)
    return guarded(poison.view(dtype).view(tuple(shape)), flush=flush, writable=True)


def check_surroundings(tensor: torch.Tensor) -> None:
    """Raises if somebody wrote between a guarded tensor and the forbidden pages around it."""
    begin = tensor.data_ptr()
    end = begin + tensor.numel() * tensor.element_size()
    if begin == end:
        return
    before, behind = begin % mmap.PAGESIZE, -end % mmap.PAGESIZE
    around = ctypes.string_at(begin - before, before) + ctypes.string_at(end, behind)
    if around.count(POISON) != len(around):
        raise AssertionError(f"written outside a tensor: {len(around) - around.count(POISON)} bytes")
