"""A bundle appears whole or not at all, never over something else, and twice the same is the same bytes."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from toy_bundle import EMPTY, PRUNED, SHARD, toy_model_folder, write_toy

from vitcop.export.bundle import Bundle, check_destination, copy_processor_files, writer, writing_bundle
from vitcop.plugins.errors import InputError


@pytest.fixture
def model_folder(tmp_path):
    return toy_model_folder(tmp_path / "model")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))


def test_twice_the_same_is_the_same_bytes(tmp_path, model_folder):
    first = write_toy(tmp_path / "a", model_folder, copy_weights=True)
    second = write_toy(tmp_path / "b", model_folder, copy_weights=True)
    assert contents(first.path) == contents(second.path)
    assert set(contents(first.path)) == {
        "manifest.json",
        "schedule.json",
        "config.json",
        "vision.onnx",
        "prefill.onnx",
        "decode.onnx",
        SHARD,
    }
    assert leftovers(tmp_path) == []


def test_referenced_weights_stay_where_they_are(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder)
    assert not (bundle.path / SHARD).exists()
    assert bundle.weights_folder == model_folder
    assert bundle.manifest.weights.files[0].sha256 == hashlib.sha256((model_folder / SHARD).read_bytes()).hexdigest()


def test_copied_weights_outlive_the_model_folder(tmp_path, model_folder):
    bundle = write_toy(tmp_path / "b", model_folder, copy_weights=True)
    shutil.rmtree(model_folder)
    assert Bundle.open(bundle.path, check_weights="sha256").weights_folder == bundle.path


def test_a_full_disk_is_said_before_anything_is_copied(tmp_path, model_folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(InputError, match="no disk space: .*--copy-weights"):
        write_toy(tmp_path / "b", model_folder, copy_weights=True)
    assert not (tmp_path / "b").exists() and leftovers(tmp_path) == []


@pytest.mark.parametrize("step", ["_record", "_refer_to_shards", "_replace", "installed_versions"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_midway_leaves_the_old_bundle(tmp_path, model_folder, monkeypatch, step, error):
    out = tmp_path / "b"
    before = contents(write_toy(out, model_folder, EMPTY).path)

    def fail(*_args, **_kwargs):
        raise error("stop")

    monkeypatch.setattr(writer, step, fail)
    with pytest.raises(error):
        write_toy(out, model_folder, PRUNED)
    assert contents(out) == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_failing_rename_leaves_the_old_bundle(tmp_path, model_folder, monkeypatch, failing_call):
    out, calls, rename = tmp_path / "b", [], os.rename
    before = contents(write_toy(out, model_folder, EMPTY).path)

    def failing(source, target):
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(writer.os, "rename", failing)
    with pytest.raises(OSError, match="disk gone"):
        write_toy(out, model_folder, PRUNED)
    assert contents(out) == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT])
@pytest.mark.parametrize("failing_call", [1, 2])
def test_another_export_to_the_same_place_is_wrong_input(tmp_path, model_folder, monkeypatch, number, failing_call):
    out, calls, rename = tmp_path / "b", [], os.rename
    before = contents(write_toy(out, model_folder, EMPTY).path)

    def failing(source, target):
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError(number, os.strerror(number), str(target))
        rename(source, target)

    monkeypatch.setattr(writer.os, "rename", failing)
    with pytest.raises(InputError, match="another export writes to this folder"):
        write_toy(out, model_folder, PRUNED)
    assert contents(out) == before
    assert leftovers(tmp_path) == []


def test_a_bundle_that_appears_while_another_is_written(tmp_path, model_folder, monkeypatch):
    """The other export finishes between our look at the folder and our rename."""
    other, out, rename = write_toy(tmp_path / "other", model_folder, EMPTY).path, tmp_path / "b", os.rename

    def late(source, target):
        if Path(target) == out and other.exists():
            rename(other, out)
        rename(source, target)

    monkeypatch.setattr(writer.os, "rename", late)
    with pytest.raises(InputError, match="another export"):
        write_toy(out, model_folder, PRUNED)
    assert Bundle.open(out).schedule == EMPTY and leftovers(tmp_path) == []


def test_staging_folders_of_killed_exports_are_removed(tmp_path, model_folder):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = [tmp_path / f".b.partial-{number}" for number in (ended.pid, 2**70)]
    kept = [tmp_path / f".{name}" for name in (f"b.partial-{os.getppid()}", "b.partial-notes", "bb.partial-1x")]
    for path in (*gone, *kept):
        path.mkdir()
        (path / "vision.onnx").write_bytes(b"half")
    write_toy(tmp_path / "b", model_folder)
    assert leftovers(tmp_path) == sorted(path.name for path in kept)


def test_a_kill_between_the_renames_is_put_right_by_the_next_write(tmp_path, model_folder):
    out = tmp_path / "b"
    write_toy(out, model_folder, EMPTY)
    before = contents(out)
    os.rename(out, tmp_path / ".b.replaced")  # What a kill at the worst moment leaves.
    with pytest.raises(RuntimeError), writing_bundle(out):
        raise RuntimeError("this write fails as well")
    assert contents(out) == before
    assert leftovers(tmp_path) == []
    assert write_toy(out, model_folder, PRUNED).schedule == PRUNED


def test_replacing_a_bundle_removes_engines_that_no_longer_hold(tmp_path, model_folder):
    out = tmp_path / "b"
    write_toy(out, model_folder, EMPTY)
    (out / "engines" / "onnxruntime" / "k").mkdir(parents=True)
    assert write_toy(out, model_folder, PRUNED).schedule == PRUNED
    assert not (out / "engines").exists()


def test_an_empty_folder_may_be_filled(tmp_path, model_folder):
    (tmp_path / "b").mkdir()
    assert write_toy(tmp_path / "b", model_folder).schedule == PRUNED


def test_nothing_foreign_is_replaced(tmp_path, model_folder):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"cat")
    with pytest.raises(InputError, match="not a vitcop bundle"):
        write_toy(photos, model_folder)
    assert contents(photos)

    bundle = write_toy(tmp_path / "b", model_folder)
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt"):
        write_toy(bundle.path, model_folder)
    assert (bundle.path / "notes.txt").exists()

    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(photos)
    for name in ("file", "link"):
        with pytest.raises(InputError, match="not a folder"):
            check_destination(tmp_path / name)


def test_a_file_that_a_bundle_never_holds_is_refused(tmp_path, model_folder):
    with pytest.raises(InputError, match=r"code\.py"), writing_bundle(tmp_path / "b") as staging:
        for name in ("vision.onnx", "prefill.onnx", "decode.onnx", "code.py"):
            (staging / name).write_bytes(b"")
        writer.write_bundle(
            staging,
            tmp_path / "b",
            schedule=EMPTY,
            architecture=write_toy(tmp_path / "c", model_folder).manifest.architecture,
            family="llava",
            model_id="",
            config_hash="",
            weights_folder=model_folder,
            shards=[SHARD],
            ops=(),
        )
    assert not (tmp_path / "b").exists()


def test_a_missing_shard_is_named(tmp_path, model_folder):
    write = write_toy(tmp_path / "a", model_folder).manifest
    (model_folder / SHARD).rename(tmp_path / "gone")
    with pytest.raises(InputError, match=SHARD), writing_bundle(tmp_path / "b") as staging:
        for name in ("vision.onnx", "prefill.onnx", "decode.onnx"):
            (staging / name).write_bytes(b"")
        writer.write_bundle(
            staging,
            tmp_path / "b",
            schedule=EMPTY,
            architecture=write.architecture,
            family="llava",
            model_id="",
            config_hash="",
            weights_folder=model_folder,
            shards=[SHARD],
            ops=(),
        )


class TestProcessorFiles:
    WANTED = (
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
        "vocab.json",
    )
    UNWANTED = (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "tokenizer.pkl",
        "modeling_x.py",
        "training_args.bin",
        "README.md",
        "optimizer.pt",
    )

    def folder(self, tmp_path):
        for part in ("model", "staging"):
            (tmp_path / part).mkdir()
        for name in (*self.WANTED, *self.UNWANTED):
            (tmp_path / "model" / name).write_text(name)
        return tmp_path / "model", tmp_path / "staging"

    def test_what_the_processor_needs_and_nothing_else(self, tmp_path):
        model, staging = self.folder(tmp_path)
        assert copy_processor_files(model, staging) == self.WANTED
        assert sorted(path.name for path in staging.iterdir()) == sorted(self.WANTED)

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path):
        model, staging = self.folder(tmp_path)
        (tmp_path / "secret").write_text("secret")
        (model / "vocab.json").unlink()
        (model / "vocab.json").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match=r"vocab\.json"):
            copy_processor_files(model, staging)

    def test_links_of_the_hugging_face_cache_are_followed(self, tmp_path):
        repository, staging = tmp_path / "models--x", tmp_path / "staging"
        snapshot = repository / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir()
        staging.mkdir()
        (repository / "blobs" / "1234").write_text("{}")
        (snapshot / "config.json").symlink_to("../../blobs/1234")
        assert copy_processor_files(snapshot, staging) == ("config.json",)
        assert (staging / "config.json").read_text() == "{}" and not (staging / "config.json").is_symlink()

    def test_a_folder_without_config(self, tmp_path):
        with pytest.raises(InputError, match=r"config\.json"):
            copy_processor_files(tmp_path, tmp_path)
