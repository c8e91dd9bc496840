"""Wrong input to the real command line with a real bundle: exit status 2, one line that names the file and the way
out, nothing on stdout."""

import json
import shutil

import pytest
from road_project import vitcop


@pytest.fixture
def bundle(finished, tmp_path):
    """A copy of the run's bundle, which refers to the weights of the model folder."""
    return shutil.copytree(finished.out / "bundle", tmp_path / "bundle")


@pytest.fixture
def ask(project):
    """Arguments of `generate` for a bundle."""
    return lambda bundle, image=None: ("generate", bundle, "--image", image or project.image(0), "--prompt", "what?")


def refused(*args: object, names: tuple[object, ...]) -> str:
    done = vitcop(*args)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vitcop: error: "), done.stderr
    for name in names:
        assert str(name) in lines[0]
    return lines[0]


def test_schedule_of_another_model(project, finished, tmp_path):
    schedule = json.loads((finished.out / "schedule.json").read_text())
    file = tmp_path / "other.json"
    export = ("export", project.model, "--schedule", file, "-o", tmp_path / "new")
    file.write_text(json.dumps({**schedule, "config_hash": "0" * 64}))
    refused(*export, names=(file, "calibrate again"))
    file.write_text(json.dumps({**schedule, "num_layers": 5}))
    refused(*export, names=(file, "5 layers", "has 2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json"]


def test_preset_for_a_model_that_is_too_shallow(project, tmp_path):
    refused("export", project.model, "--schedule", "paper-1/3", "-o", tmp_path / "new", names=("3 decoder layers", 2))
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_not_there(finished):
    refused("build", finished.out / "bundle", "--target", "openvino", names=("openvino", "onnxruntime", "tensorrt-llm"))


def test_target_that_runs_nothing(project, finished):
    call = ("generate", finished.out / "bundle", "--image", project.image(0), "--prompt", "<image> what ?")
    refused(*call, "--target", "tensorrt-llm", names=("tensorrt-llm", "runs nothing itself", "target onnxruntime"))


def test_image_that_is_missing_or_broken(finished, ask, tmp_path):
    bundle, image = finished.out / "bundle", tmp_path / "picture.png"
    refused(*ask(bundle, image), names=(image,))
    image.write_bytes(b"no picture")
    refused(*ask(bundle, image), names=(image,))


def test_placeholders_and_images_that_do_not_match(project, finished):
    call = ("generate", finished.out / "bundle", "--image", project.image(0))
    refused(*call, "--prompt", "<image> or <image>", names=("2 <image>", "1 image"))
    refused(*call, "--prompt", "  ", names=("prompt is empty",))


@pytest.mark.parametrize("name", ["prefill.onnx", "schedule.json", "tokenizer.json"])
def test_one_flipped_byte(bundle, ask, name):
    file = bundle / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(*ask(bundle), names=(file, "changed since the export", "export the bundle again"))


def test_one_flipped_byte_of_the_weights(project, bundle, ask):
    file = project.model / "model.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(*ask(bundle), names=(file, "changed since the export", "put the old file back"))
    finally:
        file.write_bytes(whole)


def test_model_folder_that_is_gone(project, bundle, ask):
    """The bundle refers to it; every command that needs the weights says so."""
    away = project.model.with_name("model-elsewhere")
    project.model.rename(away)
    try:
        for call in (
            ask(bundle),
            ("build", bundle),
            ("verify", bundle, "--data", project.samples),
            ("bench", bundle, "--data", project.samples),
        ):
            refused(*call, names=(project.model / "model.safetensors", "put the model folder back", "--copy-weights"))
        # What needs no weights still works.
        assert vitcop("inspect", bundle).returncode == 0
    finally:
        away.rename(project.model)
