"""Opening a bundle notices every change, and says which file and what to do."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from toy_bundle import EMPTY, PRUNED, SHARD, toy_model_folder, toy_weights, write_toy

from vitcop.export.bundle import Bundle
from vitcop.plugins.errors import InputError

FILES = ("config.json", "decode.onnx", "prefill.onnx", "schedule.json", "vision.onnx")


@pytest.fixture
def model_folder(tmp_path):
    return toy_model_folder(tmp_path / "model")


@pytest.fixture
def bundle(tmp_path, model_folder):
    return write_toy(tmp_path / "b", model_folder)


def test_a_sound_bundle(bundle):
    opened = Bundle.open(bundle.path, check_weights="sha256")
    assert opened.schedule == PRUNED and opened.manifest == bundle.manifest
    assert opened.graph("prefill") == bundle.path / "prefill.onnx"
    assert len(opened.graph_hash("prefill")) == 64
    assert opened.processor_folder == bundle.path


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte(bundle, name):
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: changed since the export .*export the bundle again"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_or_missing_file_or_a_link(bundle, name, tmp_path):
    path = bundle.path / name
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(InputError, match=rf"{name}: changed"):
        Bundle.open(bundle.path)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: missing"):
        Bundle.open(bundle.path)
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{name}: missing, or not a plain file"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "extra.onnx", "x.safetensors", "processor.py", "chat_template.jinja"]
)
def test_a_file_that_the_manifest_does_not_list(bundle, name):
    (bundle.path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"{name}: not listed"):
        Bundle.open(bundle.path)


def test_files_that_nobody_reads_do_no_harm(bundle):
    (bundle.path / "verify.json").write_text("{}")
    (bundle.path / "engines").mkdir()
    Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["tokenizer", ".cache", "engines2"])
def test_a_folder_other_than_engines(bundle, name):
    (bundle.path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: a bundle holds no folder but engines"):
        Bundle.open(bundle.path)


def test_the_schedule_must_be_the_one_of_the_graphs(bundle):
    """Even when file list and schedule were changed together."""
    text = EMPTY.to_json()
    (bundle.path / "schedule.json").write_text(text)
    data = json.loads((bundle.path / "manifest.json").read_text())
    import hashlib

    for record in data["files"]:
        if record["name"] == "schedule.json":
            record |= {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (bundle.path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"schedule\.json: not the schedule"):
        Bundle.open(bundle.path)


def test_weights_that_are_gone(bundle, model_folder):
    (model_folder / SHARD).unlink()
    with pytest.raises(
        InputError, match=rf"{SHARD}: .*missing; put the model folder back, or export with --copy-weights"
    ):
        Bundle.open(bundle.path)
    assert Bundle.open(bundle.path, check_weights="none").schedule == PRUNED


def test_weights_of_another_size(bundle, model_folder):
    save_file(toy_weights() | {"more": np.zeros(3, np.float32)}, model_folder / SHARD)
    with pytest.raises(InputError, match=rf"{SHARD}: changed since the export"):
        Bundle.open(bundle.path)


def test_weights_of_other_values_are_found_by_their_hash_alone(bundle, model_folder):
    save_file(toy_weights(seed=1), model_folder / SHARD)
    opened = Bundle.open(bundle.path, check_weights="size")
    with pytest.raises(InputError, match=rf"{SHARD}: changed since the export"):
        opened.check_weights("sha256")
    for how in ("known", "sha256"):
        with pytest.raises(InputError, match=SHARD):
            Bundle.open(bundle.path, check_weights=how)


def test_changed_weights_are_named_without_an_error(bundle, model_folder):
    assert Bundle.open(bundle.path).changed_weights() == ()
    save_file(toy_weights(seed=1), model_folder / SHARD)
    assert Bundle.open(bundle.path, check_weights="size").changed_weights() == (SHARD,)


def test_a_broken_safetensors_header(bundle, model_folder):
    content = bytearray((model_folder / SHARD).read_bytes())
    content[20] = 0
    (model_folder / SHARD).write_bytes(content)
    with pytest.raises(InputError, match=SHARD):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("content", [None, "not json", "{}"])
def test_a_folder_that_is_no_bundle(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError):
        Bundle.open(tmp_path)
