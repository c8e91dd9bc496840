"""What `vitcop calibrate` says about the model reaches the search."""

import pytest
from click.testing import CliRunner

from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.pipeline.cli import cli
from vitcop.pipeline.recipe import parse_recipe
from vitcop.pipeline.steps.calibrate import Search


@pytest.fixture
def settings_of(project, monkeypatch):
    """Calls the command with some options; returns the settings of the search that it would run."""
    seen = []

    def run_shard(search, shard, *, out, **_):
        seen.append(search.settings.search)
        return out / shard.file_name

    monkeypatch.setattr(Search, "run_shard", run_shard)
    sets = [f"--{name}={project / 'data' / name}.jsonl" for name in ("calibration", "selection")]

    def call(*options):
        arguments = ["calibrate", str(project / "model"), *sets, "--shard=1/2", f"--out={project / 'out'}", *options]
        result = CliRunner().invoke(cli, arguments, prog_name="vitcop")
        assert result.exit_code == 0, result.stderr
        return seen.pop()

    return call


def test_left_out_they_are_those_of_the_search(settings_of):
    assert settings_of() == CalibrationSettings()


def test_each_reaches_the_search(settings_of):
    found = settings_of("--dtype=bf16", "--batch-size=3", "--metric=anls", "--attn=eager")
    assert found == CalibrationSettings(dtype="bfloat16", batch_size=3, metric="anls", attn="eager")


def test_flash_attention_on_a_gpu_passes_all_checks(settings_of, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("vitcop.calibrate.models.loading.find_spec", lambda name: object())
    found = settings_of("--device=cuda", "--dtype=fp16", "--attn=flash_attention_2")
    assert (found.device, found.dtype, found.attn) == ("cuda", "float16", "flash_attention_2")


def test_with_ray_the_workers_look_for_their_gpus(settings_of, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert settings_of("--device=cuda", "--executor=ray").device == "cuda"


def test_a_recipe_names_types_as_the_command_does(project):
    data = {name: f"data/{name}.jsonl" for name in ("calibration", "selection", "evaluation")}
    recipe = parse_recipe({"model": "model", "data": data, "calibrate": {"search": {"dtype": "fp16"}}}, folder=project)
    assert recipe.calibrate.search == CalibrationSettings(dtype="float16")
