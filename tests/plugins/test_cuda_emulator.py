"""The emulator that runs kernels on the CPU: it computes what a GPU would, and finds what kernels do wrong."""

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor

import emulated
import pytest
import torch

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
SEEDS = range(8)


class Dim3(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


@pytest.fixture(scope="module")
def library():
    loaded = emulated.load(emulated.library([emulated.EMULATOR / "probe_kernels.cu"]))
    loaded.run.argtypes = [ctypes.c_char_p, Dim3, Dim3, POINTER, POINTER, INT]
    return loaded


@pytest.fixture
def launch(library):
    """launch(kernel, blocks, threads, in, out, count): raises if anything goes wrong."""

    def launch(kernel, blocks, threads, source, out, count=0, seed=0):
        library.emulator_seed(seed)
        blocks, threads = (Dim3(*((*shape, 1, 1)[:3])) for shape in (blocks, threads))
        source = None if source is None else source.data_ptr()
        emulated.check(library, library.run(kernel.encode(), blocks, threads, source, out.data_ptr(), count))
        return out

    return launch


def numbers(*shape, seed=0):
    return torch.randint(-1000, 1000, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def empty(*shape):
    return emulated.guarded_empty(shape, torch.int32)


@pytest.mark.parametrize("threads", [32, 256, 1024])
def test_block_sum(launch, threads):
    source = emulated.guarded(numbers(3, 1100))
    for seed in SEEDS:
        out = launch("sum", (3,), (threads,), source, empty(3, threads), 1100, seed)
        assert torch.equal(out, source.sum(1, keepdim=True, dtype=torch.int32).expand(3, threads))


def test_missing_barrier_shows(launch):
    source = emulated.guarded(numbers(1, 1100))
    sums = [launch("sum_without_barrier", (1,), (256,), source, empty(256), 1100, seed) for seed in SEEDS]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(sums))


def test_same_seed_same_order(launch):
    source = emulated.guarded(numbers(1, 1100))
    once, again = (launch("sum_without_barrier", (1,), (256,), source, empty(256), 1100, 5) for _ in range(2))
    assert torch.equal(once, again)


def test_ballot_and_prefix(launch):
    source = emulated.guarded(numbers(128))
    even = (source % 2 == 0).view(4, 32).int()
    out = launch("prefix", (1,), (128,), source, empty(128))
    assert torch.equal(out.view(4, 32), (even.cumsum(1) - even).int())


def test_collectives(launch):
    source = emulated.guarded(numbers(32))
    out = launch("collectives", (1,), (32,), source, empty(9, 32))
    lane = torch.arange(32)
    segment, place = lane // 8 * 8, lane % 8
    assert torch.equal(out[0], source[segment + (place + 3) % 8])
    assert torch.equal(out[1], source[torch.where(place + 3 < 8, lane + 3, lane)])
    assert torch.equal(out[2], source[torch.where(place >= 3, lane - 3, lane)])
    # 12 flips a bit within the segment and one beyond it: only earlier segments can be read.
    assert torch.equal(out[3], source[torch.where(lane ^ 12 < segment + 8, lane ^ 12, lane)])
    assert out[4].tolist() == [1] * 32
    assert out[5].tolist() == [1] * 32
    assert torch.equal(out[6], source[torch.where(lane < 16, 2, 20)])
    assert torch.equal(out[7], torch.trunc(source[lane ^ 1] / 2).int())
    assert torch.equal(out[8], source[lane ^ 1])


def test_atomics(launch):
    source = emulated.guarded(numbers(96))
    out = launch("atomics", (5,), (96,), source, emulated.guarded(torch.zeros(1, dtype=torch.int32), writable=True))
    assert out.item() == 5 * source.sum().item()


def test_shapes(launch):
    out = emulated.guarded(torch.zeros(24, 105, dtype=torch.int32), writable=True)
    launch("shape", (2, 3, 4), (7, 5, 3), None, out)
    assert torch.equal(out, torch.arange(24, dtype=torch.int32)[:, None] * 1000 + torch.arange(105, dtype=torch.int32))


def test_shared_memory_is_poisoned(launch):
    read = [launch("unwritten", (1,), (64,), None, empty(64), seed=seed) for seed in (0, 1, 0)]
    assert torch.equal(read[0], read[2])
    assert (read[0] != read[1]).all()


def test_some_blocks_run_warp_by_warp(launch):
    starts = [
        launch("head_start", (1,), (256,), None, empty(8), seed=seed).sort().values.tolist() for seed in range(32)
    ]
    assert any(start == list(range(8)) for start in starts)
    assert any(max(start) == 0 for start in starts)


def test_any_thread_of_the_system_may_launch(launch):
    source = emulated.guarded(numbers(1, 1100))
    with ThreadPoolExecutor(1) as pool:
        out = pool.submit(launch, "sum", (4,), (256,), source, empty(4, 256), 275).result()
    assert torch.equal(out[:, 0], source.view(4, 275).sum(1, dtype=torch.int32))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("half_barrier", r"no thread can go on: threads 0-31 wait at __syncthreads.*; threads 32-63 have exited"),
        ("two_barriers", r"arrives at __syncthreads in line \d+, but others wait at the one in line \d+"),
        ("barrier_and_shuffle", r"threads 0-7 wait at __syncthreads.*; threads 8-31 wait at __shfl_sync of lanes 0xf"),
        ("half_shuffle", r"__shfl_sync.* 0xffffffff.*exited|exits, but lanes of its warp wait for it.*__shfl_sync"),
        ("not_in_mask", r"calls __shfl_sync with mask 0x000000ff, which leaves it out"),
        ("write_input", r"memory access out of bounds"),
        ("large_stack", r"too large for the stack"),
    ],
)
def test_errors_are_reported(launch, kernel, message):
    source = emulated.guarded(numbers(64))
    for seed in SEEDS:
        with pytest.raises(
            AssertionError, match=rf"cudaErrorLaunchFailure: {kernel}_kernel.*block \(0, 0, 0\).*{message}"
        ):
            launch(kernel, (1,), (64,), source, empty(64), seed=seed)
    # The fibers of a block that failed are good for another one.
    assert launch("copy", (2,), (32,), source, empty(64), 64).tolist() == source.tolist()


def test_value_of_a_lane_outside_the_mask_is_undefined(launch):
    first, second = (launch("not_in_mask_source", (1,), (32,), None, empty(32), seed=seed)[:16] for seed in (0, 1))
    assert (first != second).all()


@pytest.mark.parametrize("count", [1, 12, 1023, 1024, 1025])
def test_bounds(launch, count):
    source = emulated.guarded(numbers(count))
    assert torch.equal(launch("copy", (3,), (512,), source, empty(count), count), source)
    padded = emulated.guarded(numbers(count + 16))
    beyond = -(-count // 4) * 4 + 1  # the first element that is surely beyond the last aligned 16 bytes
    with pytest.raises(AssertionError, match="memory access out of bounds"):
        launch("copy", (3,), (512,), source, empty(count + 16), beyond)
    with pytest.raises(AssertionError, match="memory access out of bounds"):
        launch("copy", (3,), (512,), padded, empty(count), beyond)


def test_surroundings(launch):
    source = emulated.guarded(numbers(8))
    out = launch("copy", (1,), (32,), source, empty(6), 6)
    emulated.check_surroundings(out)
    launch("copy", (1,), (32,), source, out, 7)
    with pytest.raises(AssertionError, match="outside a tensor: 4 bytes"):
        emulated.check_surroundings(out)


def test_undefined_behaviour(launch):
    source = emulated.guarded(numbers(64))
    assert launch("index", (1,), (1,), source, empty(1), 7).item() == 1
    with pytest.raises(AssertionError, match=r"array index out of range \(.*probe_kernels\.cu:\d+\)"):
        launch("index", (1,), (1,), source, empty(1), 8)
    assert torch.equal(launch("misaligned", (1,), (1,), source, empty(4), 4), source[4:8])
    with pytest.raises(AssertionError, match=r"misaligned address \(.*probe_kernels\.cu:\d+\)"):
        launch("misaligned", (1,), (1,), source, empty(4), 5)


@pytest.mark.parametrize(
    ("blocks", "threads", "message"),
    [
        ((0,), (32,), "a dimension is 0"),
        ((1,), (32, 64), "block is too large"),
        ((1, 65536), (1,), "grid is too large"),
    ],
)
def test_refused_launches(launch, blocks, threads, message):
    with pytest.raises(AssertionError, match=f"cudaErrorInvalidConfiguration: .*{message}"):
        launch("copy", blocks, threads, None, empty(1))


def test_launches_are_counted(library):
    library.emulator_reset()
    out = empty(64)
    for count in range(3):
        assert library.emulator_launches() == count
        library.run(b"barriers", Dim3(2, 1, 1), Dim3(64, 1, 1), None, out.data_ptr(), 10)
    assert library.emulator_launches() == 3
    library.emulator_reset()
    assert library.emulator_launches() == 0


def test_from_16_bits(launch):
    out = launch("half_to_float", (64,), (1024,), None, empty(2, 65536))
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for row, dtype in enumerate([torch.float16, torch.bfloat16]):
        expected = patterns.view(dtype).float()
        got = out[row].view(torch.float32)
        assert torch.equal(got.isnan(), expected.isnan())
        number = ~expected.isnan()
        assert torch.equal(got.view(torch.int32)[number], expected.view(torch.int32)[number])


def test_to_16_bits(launch):
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(-(2**31), 2**31, (100_000,), generator=generator).int()
    # Every number of 16 bits, what lies halfway to the next one, and the floats next to that.
    patterns = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    exact = torch.cat([patterns.view(torch.float16).float(), patterns.view(torch.bfloat16).float()]).view(torch.int32)
    near = torch.cat([exact + half + step for half in (0, 1 << 12, 1 << 15) for step in (-1, 0, 1)])
    small = torch.linspace(-1.3e-4, 1.3e-4, 100_001).view(torch.int32)
    large = torch.linspace(65000, 66000, 10_001).view(torch.int32)
    bits = emulated.guarded(torch.cat([random, near, small, large, -large]))
    out = launch("float_to_half", (-(-bits.numel() // 1024),), (1024,), bits, empty(2, bits.numel()), bits.numel())
    values = bits.view(torch.float32)
    for row, dtype in enumerate([torch.float16, torch.bfloat16]):
        expected = values.to(dtype)
        got = out[row].to(torch.uint16).view(dtype)
        assert torch.equal(got.isnan(), values.isnan())
        number = ~values.isnan()
        assert torch.equal(got.view(torch.int16)[number], expected.view(torch.int16)[number])


@pytest.mark.parametrize(
    "line",
    [
        "extern __shared__ float dynamic[];",
        "__device__ int f(int* p) { return atomicCAS(p, 0, 1); }",
        "__device__ float f(__half a, __half b) { return a + b; }",
        "__device__ short f(short a) { return __shfl_sync(0xffffffffu, a, 0); }",
    ],
)
def test_what_is_not_emulated_does_not_compile(tmp_path, line):
    source = tmp_path / "kernel.cu"
    source.write_text(f"#include <cuda_fp16.h>\n#include <cuda_runtime.h>\n{line}\n")
    with pytest.raises(RuntimeError, match=r"kernel\.cu:3|shuffles do not have"):
        emulated.library([source])
