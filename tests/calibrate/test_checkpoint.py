"""Reading model folders: what is found in good ones, and the one line that bad ones get."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_models import build_tiny_llava

from vitcop.calibrate.models.checkpoint import FINGERPRINT_BLOCK_BYTES, FINGERPRINT_BLOCKS, Checkpoint, read_eos_ids
from vitcop.calibrate.models.processor_files import processor_digest
from vitcop.plugins.errors import InputError

CONFIG = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}


def make(folder, config=None, weights=True):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if weights:
        save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, folder / "model.safetensors")
    return folder


def refused(folder) -> str:
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_tensor_locations_are_the_bytes(tiny):
    tensors = tiny.checkpoint.tensors()
    with safe_open(tiny.folder / "model.safetensors", "np") as reader:
        assert set(tensors) == set(reader.keys())
        for name, place in tensors.items():
            found = np.fromfile(
                tiny.folder / place.file, dtype=np.float32, count=place.length // 4, offset=place.offset
            )
            np.testing.assert_array_equal(found.reshape(place.shape), reader.get_tensor(name))
            assert place.dtype == "F32"


def test_sharded_checkpoint_has_the_same_tensors(tiny, tmp_path):
    sharded = Checkpoint.open(build_tiny_llava(tmp_path / "sharded", max_shard_size="60KB"))
    assert len(sharded.shards) > 1
    whole = tiny.checkpoint.tensors()
    assert {name: place.shape for name, place in sharded.tensors().items()} == {
        name: place.shape for name, place in whole.items()
    }
    assert {place.file for place in sharded.tensors().values()} == set(sharded.shards)


def test_identity(tiny, tmp_path):
    assert tiny.checkpoint.model_id == "tiny-llava"
    base = Checkpoint.open(make(tmp_path / "a")).config_hash
    assert (
        Checkpoint.open(
            make(tmp_path / "b", {"transformers_version": "9", **dict(reversed(CONFIG.items()))})
        ).config_hash
        == base
    )
    assert Checkpoint.open(make(tmp_path / "c", {**CONFIG, "x": 1})).config_hash != base


def test_fingerprint_sees_weights(tmp_path):
    first = Checkpoint.open(make(tmp_path / "a"))
    before = first.fingerprint()
    save_file({"a": np.ones((2, 3), dtype=np.float32)}, tmp_path / "a" / "model.safetensors")
    assert Checkpoint.open(tmp_path / "a").fingerprint() != before


def test_fingerprint_sees_an_edit_between_its_samples(tmp_path):
    size = 2 * FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES
    make(tmp_path / "a")
    shard = tmp_path / "a" / "model.safetensors"
    save_file({"a": np.zeros(size, dtype=np.uint8)}, shard)
    checkpoint = Checkpoint.open(tmp_path / "a")
    before, times = checkpoint.fingerprint(), shard.stat()
    assert checkpoint.fingerprint() == before
    with shard.open("r+b") as stream:
        stream.seek(FINGERPRINT_BLOCK_BYTES + FINGERPRINT_BLOCK_BYTES // 2)
        stream.write(b"\1")
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checkpoint.fingerprint() == before, "the samples alone do not see this edit"
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000_000))
    assert checkpoint.fingerprint() != before


def test_eos_ids(tiny, tmp_path):
    assert tiny.checkpoint.eos_ids == {2}
    make(tmp_path / "a", {**CONFIG, "text_config": {"eos_token_id": [5, 6]}, "eos_token_id": 7})
    assert read_eos_ids(tmp_path / "a") == {5, 6}
    assert read_eos_ids(make(tmp_path / "b")) == frozenset()


def test_missing_folder_and_files(tmp_path):
    assert "no such model folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "LoRA" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{nonsense")
    assert "JSON" in refused(tmp_path / "empty")
    assert "no weights" in refused(make(tmp_path / "bare", weights=False))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantized checkpoint (awq)"),
        ({"text_config": {"quantization_config": {"quant_method": "gptq"}}}, "gptq"),
        ({"architectures": ["Other"], "auto_map": {"AutoModel": "x.Y"}}, "remote code"),
        ({"architectures": ["Other"]}, "supported: LlavaForConditionalGeneration"),
        ({"architectures": None}, "none named"),
    ],
)
def test_refused_configs(tmp_path, change, said):
    assert said in refused(make(tmp_path / "m", {**CONFIG, **change}))


def test_pickled_weights_only(tmp_path):
    folder = make(tmp_path / "m", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "convert to safetensors" in refused(folder)


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("gone.safetensors", "is missing"),
        ("../x.safetensors", "not a plain"),
        ("/etc/x.safetensors", "not a plain"),
        ("x.bin", "not a plain"),
    ],
)
def test_bad_index(tmp_path, shard, said):
    folder = make(tmp_path / "m", weights=False)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    assert said in refused(folder)


def test_index_names_a_tensor_that_is_elsewhere(tmp_path):
    folder = make(tmp_path / "m", weights=False)
    save_file({"a": np.zeros(2, np.float32)}, folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}})
    )
    assert "tensor b is not in one.safetensors" in refused(folder)


def test_truncated_and_broken_shards(tmp_path):
    folder = make(tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    assert "truncated (tensor a" in refused(folder)
    file.write_bytes(whole[:5])
    assert "truncated or not a safetensors file" in refused(folder)
    file.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    assert "truncated or not" in refused(folder)

    def with_header(entry):
        header = json.dumps({"a": entry}).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
        return refused(folder)

    assert "needs" not in with_header({"dtype": "F32", "shape": [2, 3]}) and "broken header" in refused(folder)
    assert "which is not what its shape" in with_header({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 24]})
    assert "broken header" in with_header({"dtype": "F32", "shape": [2, 3], "data_offsets": [-24, 0]})
    assert "dtype 'F7'" in with_header({"dtype": "F7", "shape": [2, 3], "data_offsets": [0, 24]})
    assert "truncated" in with_header({"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]})


def test_light_modules_do_not_load_torch():
    modules = "core.progress schedule.schedule schedule.presets schedule.cost schedule.budget schedule.choices "
    modules += "schedule.latency data.samples models.checkpoint models.prompt run.runner run.generation "
    modules += "evaluate.settings search.calibration search.sets work.shards"
    code = ";".join(f"import vitcop.calibrate.{name}" for name in modules.split())
    code += ";import sys; print([name for name in ('torch','transformers','onnxruntime') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("change", [{"text_config": 3}, {"architectures": "Llava"}, {"architectures": [["x"]]}])
def test_config_of_the_wrong_shape(tmp_path, change):
    with pytest.raises(InputError, match=next(iter(change)).removesuffix("s")):
        Checkpoint.open(make(tmp_path / "a", {**CONFIG, **change}))


@pytest.mark.parametrize("found", ["</s>", [1, "2"], 1.5])
def test_eos_ids_of_the_wrong_shape(tmp_path, found):
    make(tmp_path / "a", {**CONFIG, "eos_token_id": found})
    with pytest.raises(InputError, match="eos_token_id must be an integer"):
        read_eos_ids(tmp_path / "a")


def test_processor_digest(tmp_path):
    folder = make(tmp_path / "a")
    seen = [processor_digest(folder)]
    for name in ("tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
        seen.append(processor_digest(folder))
    (folder / "tokenizer_config.json").write_text("{ }")
    seen.append(processor_digest(folder))
    assert len(set(seen)) == len(seen)
    for name in ("README.md", "processing.py", "tokenizer.bin"):
        (folder / name).write_text("x")
    assert processor_digest(folder) == seen[-1]
