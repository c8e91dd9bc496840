"""The ONNX Runtime runner against the toy model in NumPy: batches, padding, drops, several KV lengths, decoding."""

import numpy as np
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file
from toy_bundle import (
    ARCHITECTURE,
    EMPTY,
    EOS,
    PRUNED,
    SHARD,
    toy_batch,
    toy_forward,
    toy_model_folder,
    toy_weights,
    write_toy,
)

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.generation import generate
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes.onnxruntime import (
    OnnxRuntimeOptions,
    OnnxRuntimeRunner,
    profile,
    profiling,
    selector_shares,
)
from vitcop.export.runtimes.onnxruntime.profiling import share_of
from vitcop.plugins.errors import InputError, MissingError

TOLERANCE = 2e-5


@pytest.fixture
def model_folder(tmp_path):
    return toy_model_folder(tmp_path / "model")


def make_runner(tmp_path, model_folder, schedule=PRUNED, **options):
    return OnnxRuntimeRunner(write_toy(tmp_path / "b", model_folder, schedule, **options), threads=1)


@pytest.mark.parametrize("schedule", [EMPTY, PRUNED], ids=["empty", "pruned"])
@pytest.mark.parametrize("rows", [1, 3])
def test_prefill_and_decode_equal_the_model_without_padding_and_cache(tmp_path, model_folder, schedule, rows):
    runner, batch, weights = make_runner(tmp_path, model_folder, schedule), toy_batch(rows), toy_weights()
    done = runner.prefill(batch)
    logits, answers = done.logits, [[] for _ in range(rows)]
    for _ in range(4):
        assert logits.shape == (rows, 16) and logits.dtype == np.float32
        for row in range(rows):
            expected = toy_forward(weights, schedule, batch, row, answers[row])
            # The toy drops by its own layer-0 keys of the prompt: the answer so far must not change the choice.
            if schedule.drops and answers[row]:
                assert len(expected["kept_visual"]) == 2
            np.testing.assert_allclose(logits[row], expected["logits"], atol=TOLERANCE)
        tokens = logits.argmax(axis=-1)
        for row in range(rows):
            answers[row].append(int(tokens[row]))
        logits = runner.decode(tokens, done.state)


def test_what_the_drops_kept(tmp_path, model_folder):
    batch = toy_batch(3)
    done = make_runner(tmp_path, model_folder).prefill(batch)
    for row in range(3):
        expected = toy_forward(toy_weights(), PRUNED, batch, row, [])
        assert done.vision.kept_visual[row].tolist() == expected["kept_patches"].tolist()
        assert done.drops[0].kept_visual[row].tolist() == expected["kept_visual"].tolist()
    assert len(done.drops) == 1 and done.drops[0].scores is None


def test_lengths_and_bytes(tmp_path, model_folder):
    batch = toy_batch(3)
    length = batch.input_ids.shape[1]
    runner = make_runner(tmp_path, model_folder)
    done = runner.prefill(batch)
    assert done.kv_lengths == (length - 1, length - 2)
    assert done.kv_bytes == sum(3 * 4 * 4 * 2 * kv for kv in done.kv_lengths)
    assert [key.shape[2] for key, _ in runner.kv(done.state)] == list(done.kv_lengths)
    assert set(done.seconds) == {"vision", "prefill"} and all(value > 0 for value in done.seconds.values())
    runner.decode(np.zeros(3, dtype=np.int64), done.state)
    assert [key.shape[2] for key, _ in runner.kv(done.state)] == [kv + 1 for kv in done.kv_lengths]

    whole = make_runner(tmp_path, model_folder, EMPTY).prefill(batch)
    assert whole.vision is None and whole.drops == () and whole.kv_lengths == (length,)


def test_a_row_does_not_depend_on_its_batch(tmp_path, model_folder):
    runner, batch = make_runner(tmp_path, model_folder), toy_batch(3)
    together = generate(runner, batch, max_new_tokens=5, eos_ids=[EOS]).tokens
    for row in range(3):
        real = batch.attention_mask[row] == 1
        alone = PromptBatch(
            input_ids=batch.input_ids[row : row + 1, real],
            attention_mask=batch.attention_mask[row : row + 1, real],
            position_ids=batch.position_ids[row : row + 1, real],
            visual_index=batch.visual_index[row : row + 1] - (~real).sum(),
            vision_inputs={name: array[row : row + 1] for name, array in batch.vision_inputs.items()},
        )
        assert generate(runner, alone, max_new_tokens=5, eos_ids=[EOS]).tokens == [together[row]]


def test_two_prefills_do_not_share_state(tmp_path, model_folder):
    runner, batch = make_runner(tmp_path, model_folder), toy_batch(2)
    first = runner.prefill(batch)
    tokens = np.array([5, 6])
    expected = runner.decode(tokens, runner.prefill(batch).state)
    runner.decode(np.array([9, 9]), runner.prefill(batch).state)
    np.testing.assert_array_equal(runner.decode(tokens, first.state), expected)


def test_the_engine_reads_the_weights_that_lie_there(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder, copy_weights=True)
    batch = toy_batch(2)
    before = OnnxRuntimeRunner(bundle).prefill(batch).logits
    other = {name: value * np.float32(1.01) for name, value in toy_weights().items()}
    save_file(other, bundle.path / SHARD)
    after = OnnxRuntimeRunner(Bundle.open(bundle.path, check_weights="size")).prefill(batch).logits
    np.testing.assert_allclose(after[0], toy_forward(other, PRUNED, batch, 0, [])["logits"], atol=TOLERANCE)
    assert np.abs(after - before).max() > 0.01


def test_shards_that_are_links_as_in_the_hugging_face_cache(tmp_path, model_folder):
    bundle, batch = write_toy(tmp_path / "b", model_folder), toy_batch(2)
    expected = OnnxRuntimeRunner(bundle).prefill(batch).logits
    (tmp_path / "blobs").mkdir()
    (model_folder / SHARD).rename(tmp_path / "blobs" / "1234")
    (model_folder / SHARD).symlink_to("../blobs/1234")
    linked = OnnxRuntimeRunner(Bundle.open(bundle.path, check_weights="sha256"))
    np.testing.assert_array_equal(linked.prefill(batch).logits, expected)


def test_a_bundle_may_be_moved(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder, copy_weights=True)
    bundle.path.rename(tmp_path / "elsewhere")
    OnnxRuntimeRunner(Bundle.open(tmp_path / "elsewhere")).prefill(toy_batch(1))


def test_prompts_without_pixels_are_an_input_error(tmp_path, model_folder):
    batch = toy_batch(1)
    bare = PromptBatch(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        visual_index=batch.visual_index,
        vision_inputs={},
    )
    with pytest.raises(InputError, match="pixel_values"):
        make_runner(tmp_path, model_folder).prefill(bare)


def test_pixels_of_another_size_are_one_line(tmp_path, model_folder, capfd):
    batch = toy_batch(1)
    batch.vision_inputs["pixel_values"] = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(InputError, match=r"vision\.onnx: failed while running") as caught:
        make_runner(tmp_path, model_folder).prefill(batch)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_engine_whose_lengths_are_not_its_schedule(tmp_path, model_folder):
    def keep_all(graphs):
        function = next(f for f in graphs["vision"].functions if f.name == "VisionSaliency")
        for node in function.node:
            if node.output[0] == "three":
                node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array([2])))
        for output in graphs["vision"].graph.output:
            output.type.tensor_type.shape.dim[1].dim_param = "K"

    with pytest.raises(InputError, match="KV lengths"):
        make_runner(tmp_path, model_folder, change=keep_all).prefill(toy_batch(1))


class TestHostileGraphs:
    """The manifest may be consistent and the graph still hostile."""

    @pytest.mark.parametrize("location", ["../secret.safetensors", "/etc/passwd", "other.safetensors", ""])
    def test_weights_outside_the_manifest(self, tmp_path, model_folder, location):
        def change(graphs):
            graphs["vision"].graph.initializer[0].external_data[0].value = location

        with pytest.raises(InputError, match="does not list"):
            make_runner(tmp_path, model_folder, change=change)

    def test_weights_beyond_the_end(self, tmp_path, model_folder):
        def change(graphs):
            graphs["vision"].graph.initializer[0].external_data[1].value = "100000"

        with pytest.raises(InputError, match="beyond the end"):
            make_runner(tmp_path, model_folder, change=change)

    def test_weights_hidden_in_a_function_body(self, tmp_path, model_folder):
        def change(graphs):
            node = graphs["vision"].functions[0].node.add(op_type="Constant", output=["hidden"])
            tensor = node.attribute.add(name="value", type=4).t
            tensor.CopyFrom(graphs["vision"].graph.initializer[0])
            tensor.external_data[0].value = "../secret"

        with pytest.raises(InputError, match="does not list"):
            make_runner(tmp_path, model_folder, change=change)

    def test_a_graph_that_onnx_runtime_refuses(self, tmp_path, model_folder, capfd):
        def change(graphs):
            graphs["prefill"].graph.node[0].op_type = "NoSuchOp"

        with pytest.raises(InputError, match=r"prefill\.onnx: cannot be loaded") as caught:
            make_runner(tmp_path, model_folder, change=change)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""


def test_bfloat16_is_refused_on_the_cpu_with_the_way_out(tmp_path, model_folder):
    import dataclasses

    bundle = write_toy(tmp_path / "b", model_folder)
    shorter = dataclasses.replace(bundle.manifest, architecture=dataclasses.replace(ARCHITECTURE, dtype="bfloat16"))
    with pytest.raises(InputError, match="bfloat16"):
        OnnxRuntimeRunner(dataclasses.replace(bundle, manifest=shorter))


def test_a_device_that_is_not_there(tmp_path, model_folder):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MissingError, match="onnxruntime-gpu"):
        OnnxRuntimeRunner(write_toy(tmp_path / "b", model_folder), device="cuda")


@pytest.mark.parametrize(
    "values", [{"device": "tpu"}, {"threads": 0}, {"threads": "2"}, {"threads": True}, {"speed": 1}]
)
def test_wrong_options(values):
    with pytest.raises(InputError):
        OnnxRuntimeOptions.of(values)


def test_the_selector_is_found_in_the_profile(tmp_path, model_folder):
    batch, options = toy_batch(2), OnnxRuntimeOptions(threads=1)
    bundle = write_toy(tmp_path / "b", model_folder)
    shares = selector_shares(bundle, batch, options)
    assert 0.1 < shares["vision"] < 0.9 and 0.1 < shares["prefill"] < 0.9
    parts = profile(bundle, batch, options, repeats=2, new_tokens=2)
    assert set(parts) == {"vision", "selector", "prefill", "decode_per_token"} and all(v > 0 for v in parts.values())
    empty = write_toy(tmp_path / "c", model_folder, EMPTY)
    assert selector_shares(empty, batch, options) == {"vision": 0.0, "prefill": 0.0}
    assert not list(tmp_path.rglob("*profile*"))


def test_a_selector_that_the_profile_does_not_show_is_unknown():
    nodes = {"_inlfunc_drop_n0_TopK_kernel_time": 1.0, "MatMul_kernel_time": 3.0}
    assert share_of(nodes, ("drop",)) == 0.25
    assert share_of(nodes, ("merge",)) is None and share_of({}, ("drop",)) is None
    assert share_of(nodes, ()) == 0.0 == share_of({}, ())


def test_a_profile_of_unknown_shares(tmp_path, model_folder, monkeypatch):
    monkeypatch.setattr(profiling, "share_of", lambda typical, functions: None)
    bundle, batch, options = write_toy(tmp_path / "b", model_folder), toy_batch(1), OnnxRuntimeOptions(threads=1)
    assert selector_shares(bundle, batch, options) == {"vision": None, "prefill": None}
    parts = profile(bundle, batch, options, repeats=1, new_tokens=1)
    assert parts["selector"] is None and parts["vision"] > 0 and parts["prefill"] > 0
