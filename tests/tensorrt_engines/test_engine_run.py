"""The runner's own work over ONNX Runtime sessions (see host_sessions) against the ONNX Runtime runner."""

import numpy as np
import onnx
import pytest
import torch
from host_sessions import HostSession, HostStream, joined

from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner
from vitcop.export.runtimes.tensorrt.decoding import InPlaceDecoder, PlainDecoder, moved_left
from vitcop.export.runtimes.tensorrt.engine_run import EngineRun
from vitcop.export.runtimes.tensorrt.session import Buffers
from vitcop.plugins.errors import InputError

CAPACITIES = (60, 58, 54)
TOLERANCE = 2e-5
STEPS = 6


def load(bundle, part):
    return onnx.load(bundle.graph(part), load_external_data=False)


def make_run(bundle, form, capacities=CAPACITIES, **settings):
    stream, buffers = HostStream(), Buffers(torch.device("cpu"))
    vision, prefill = (HostSession(load(bundle, part), stream, bundle.path) for part in ("vision", "prefill"))
    if form == "plain":
        decoder = PlainDecoder(HostSession(load(bundle, "decode"), stream, bundle.path), bundle, buffers)
    else:
        model, _ = joined(load(bundle, "decode"), capacities, form, bundle.manifest.architecture)
        session = HostSession(model, stream, bundle.path)
        settings = {"use_graph": True} | settings
        decoder = InPlaceDecoder(session, bundle, buffers, form=form, capacities=capacities, **settings)
    return EngineRun(bundle, vision, prefill, decoder, stream, dtype="float32")


@pytest.fixture(scope="module")
def reference(bundle):
    return OnnxRuntimeRunner(bundle, threads=1)


@pytest.mark.parametrize("form", ["lengths", "mask", "plain"])
def test_answers_and_caches_are_those_of_onnx_runtime(bundle, make_batch, reference, form):
    run = make_run(bundle, form)
    # Rows of different lengths, then fewer, then more again: memory is used again, and must not show.
    for rows in (3, 1, 3):
        batch = make_batch(rows)
        ours, theirs = run.prefill(batch), reference.prefill(batch)
        assert ours.kv_lengths == theirs.kv_lengths and ours.kv_bytes == theirs.kv_bytes
        assert np.array_equal(ours.vision.kept_visual, theirs.vision.kept_visual)
        for mine, other in zip(ours.drops, theirs.drops, strict=True):
            assert np.array_equal(mine.kept_visual, other.kept_visual)
        np.testing.assert_allclose(ours.drops[0].assignment, theirs.drops[0].assignment, atol=TOLERANCE)
        logits, padding = theirs.logits, (batch.attention_mask == 0).sum(axis=1)
        np.testing.assert_allclose(ours.logits, logits, atol=TOLERANCE)
        for _ in range(STEPS):
            tokens = logits.argmax(axis=-1)
            logits = reference.decode(tokens, theirs.state)
            np.testing.assert_allclose(run.decode(tokens, ours.state), logits, atol=TOLERANCE)
        for mine, other in zip(run.kv(ours.state), reference.kv(theirs.state), strict=True):
            for left, right in zip(mine, other, strict=True):
                assert left.shape == right.shape
                for row, begin in enumerate(padding):
                    np.testing.assert_allclose(left[row, :, begin:], right[row, :, begin:], atol=TOLERANCE)


def test_padding_is_really_there(make_batch):
    assert (make_batch(3).attention_mask == 0).any()


def test_a_step_is_captured_once_for_a_number_of_rows(bundle, make_batch):
    run = make_run(bundle, "lengths")
    for rows, captures in ((2, 1), (2, 1), (1, 2)):
        done = run.prefill(make_batch(rows))
        for _ in range(3):
            run.decode(np.zeros(rows, dtype=np.int64), done.state)
        assert run.stream.captures == captures


def test_without_cuda_graph_nothing_is_captured(bundle, make_batch):
    run = make_run(bundle, "mask", use_graph=False)
    done = run.prefill(make_batch(1))
    for _ in range(3):
        run.decode(np.zeros(1, dtype=np.int64), done.state)
    assert run.stream.captures == 0


def test_plain_caches_take_their_memory_once(bundle, make_batch):
    run = make_run(bundle, "plain")

    def memory():
        return {name: (flat.data_ptr(), flat.numel()) for name, flat in run._decoder.buffers._flat.items()}

    def decode(rows, steps):
        done = run.prefill(make_batch(rows))
        for _ in range(steps):
            run.decode(np.zeros(rows, dtype=np.int64), done.state)

    decode(2, 2)
    taken = memory()
    assert len([name for name in taken if name.startswith("cache_")]) == 2 * 2 * bundle.schedule.num_layers
    decode(3, 6)
    assert memory() == taken


def test_a_full_cache_is_an_error_that_says_what_to_raise(bundle, make_batch):
    batch = make_batch(1)
    lengths = make_run(bundle, "lengths").prefill(batch).kv_lengths
    run = make_run(bundle, "lengths", tuple(length + 2 for length in lengths))
    done = run.prefill(batch)
    for _ in range(2):
        run.decode(np.zeros(1, dtype=np.int64), done.state)
    with pytest.raises(InputError, match="is full .* max_new_tokens"):
        run.decode(np.zeros(1, dtype=np.int64), done.state)
    with pytest.raises(InputError, match="leave no room"):
        make_run(bundle, "lengths", lengths).prefill(batch)


def test_a_state_whose_memory_is_gone_is_refused(bundle, make_batch):
    run = make_run(bundle, "lengths")
    old = run.prefill(make_batch(1))
    run.prefill(make_batch(1))
    with pytest.raises(RuntimeError, match="earlier prefill"):
        run.decode(np.zeros(1, dtype=np.int64), old.state)


def test_moved_left():
    cache = torch.arange(12.0).reshape(2, 1, 6, 1)
    moved = moved_left(cache, torch.tensor([0, 2]))[:, 0, :, 0]
    assert moved[0].tolist() == [0, 1, 2, 3, 4, 5] and moved[1, :4].tolist() == [8, 9, 10, 11]


def test_buffers_are_used_again_and_grow():
    buffers = Buffers(torch.device("cpu"))
    first = buffers.view("a", (2, 3), torch.float32)
    assert buffers.view("a", (3, 2), torch.float16).data_ptr() == first.data_ptr()
    assert buffers.view("b", (2, 3), torch.float32).data_ptr() != first.data_ptr()
    assert buffers.view("a", (1000,), torch.float32).shape == (1000,)
    assert buffers.view("empty", (2, 0), torch.float32).numel() == 0


def test_verify_runs_pytorch_in_the_type_of_the_engine(bundle, reference):
    from vitcop.export.measure.rungs import engine_dtype

    run = make_run(bundle, "plain")
    run.dtype = "float16"
    assert engine_dtype(run, bundle) == "float16" and engine_dtype(reference, bundle) == "float32"
