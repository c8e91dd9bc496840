"""inspect and doctor: facts for people and for machines."""

import json

import pytest
from fake_project import write_model

from vitcop.calibrate.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.pipeline.doctor import Examination, Row, examine
from vitcop.pipeline.inspection import inspect, inspect_schedule, table
from vitcop.pipeline.recipe import load_recipe

PAPER = Schedule(
    num_layers=32,
    model_id="llava-1.5-7b",
    vision=VisionStage(keep=(288, 576), clusters=Clusters(centers=(18, 100))),
    drops=(Drop(layer=2, op="merge", keep=(253, 288)), Drop(layer=22, keep=(51, 253))),
)


def test_schedule_with_a_known_number_of_tokens():
    found = inspect_schedule(PAPER, num_visual=576)
    assert found.text.splitlines() == [
        "schedule for llava-1.5-7b of 32 layers, budget 0.3334",
        "layers  tokens  of all  how",
        "0–1     288     50.0 %  vision tower: class_attention, 18/100 cluster centres",
        "2–21    253     43.9 %  before layer 2: merge, sum by k_norm (smallest, mean_key)",
        "22–31   51      8.9 %   before layer 22: select by k_norm (smallest, mean_key)",
    ]
    assert found.facts["budget"] == pytest.approx(192.0625 / 576)
    assert [group["visual_tokens"] for group in found.facts["groups"]] == [288, 253, 51]


def test_schedule_file_alone(tmp_path, invoke):
    file = tmp_path / "s.json"
    file.write_text(PAPER.to_json())
    found = inspect(file)
    assert found.facts["visual_tokens"] is None and "tokens" not in found.text.splitlines()[1]
    assert "43.9 %" in found.text
    assert json.loads(invoke("inspect", file, "--json").stdout) == json.loads(json.dumps(found.facts))


def test_model_folder(tmp_path, invoke):
    folder = write_model(tmp_path / "m")
    result = invoke("inspect", folder)
    assert result.exit_code == 0
    for words in (
        "llava (LlavaForConditionalGeneration)",
        "16 an image of the encoder's own size",
        "text_query",
        "1 safetensors file",
    ):
        assert words in result.stdout
    facts = json.loads(invoke("inspect", folder, "--json").stdout)
    assert facts["kind"] == "model" and facts["num_layers"] == 4 and facts["visual_tokens"] == 16


def test_table_aligns_and_leaves_out_empty_columns():
    assert table([("a", "", "bb"), ("ccc", "", "d")]) == ["a    bb", "ccc  d"]


def test_doctor_lists_everything(invoke):
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    for name in (
        "Python",
        "torch",
        "GPU",
        "nvcc",
        "onnxruntime",
        "providers",
        "tensorrt",
        "tensorrt-llm",
        "flash-attn",
        "vitcop",
        "free disk",
        "free memory",
    ):
        assert rows[name]["purpose"]
    assert rows["torch"]["found"] and "CPUExecutionProvider" in rows["providers"]["found"]
    assert not any(row["required"] for row in rows.values())
    assert all(row["remedy"] for row in rows.values() if row["found"] is None)
    text = invoke("doctor").stdout
    assert text.splitlines()[0].split() == ["found", "needed", "for", "if", "missing"]


def test_doctor_with_a_recipe_that_runs_here(invoke, project):
    assert invoke("doctor", "--recipe", project / "recipe.yaml").exit_code == 0


def test_doctor_with_a_recipe_that_needs_more(invoke, project, monkeypatch):
    monkeypatch.setattr("vitcop.pipeline.doctor.version_of", lambda name: "not installed")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with (project / "recipe.yaml").open("a") as file:
        file.write("build:\n  target: tensorrt\n")
    result = invoke("doctor", "--recipe", project / "recipe.yaml")
    assert result.exit_code == 4
    last = result.stderr.splitlines()[-1]
    assert last.startswith("vitcop: error: missing: ")
    for words in ("tensorrt (pip install 'vitcop[tensorrt]')", "GPU (", "nvcc (", "torch (pip install torch)"):
        assert words in last
    assert "flash-attn" not in last
    assert "MISSING" in result.stdout


def test_doctor_with_a_target_that_this_version_cannot_build(invoke, project, monkeypatch):
    """Even where the machine has all that the target needs."""
    monkeypatch.setattr("vitcop.pipeline.doctor.version_of", lambda name: "1.0")
    for name in ("_gpu", "_nvcc"):
        monkeypatch.setattr(f"vitcop.pipeline.doctor.{name}", lambda: "there")
    with (project / "recipe.yaml").open("a") as file:
        file.write("build:\n  target: tensorrt-llm\n")
    result = invoke("doctor", "--recipe", project / "recipe.yaml")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1] == (
        "vitcop: error: missing: target tensorrt-llm (this version of vitcop cannot build for it; available: "
        "onnxruntime, tensorrt)"
    )
    row = next(line for line in result.stdout.splitlines() if line.startswith("target tensorrt-llm"))
    assert "MISSING" in row


def test_doctor_says_what_flash_attention_is_for():
    row = next(row for row in examine().rows if row.name == "flash-attn")
    assert "--attn flash_attention_2" in row.purpose and not row.required


def test_cuda_device_needs_a_gpu(project):
    with (project / "recipe.yaml").open("a") as file:
        file.write("device: cuda\n")
    rows = {row.name: row for row in examine(load_recipe(project / "recipe.yaml")).rows}
    assert rows["GPU"].required and rows["CUDA provider"].required and not rows["tensorrt"].required


def test_examination():
    rows = (
        Row(name="a", found=None, purpose="x", required=True),
        Row(name="b", found=None, purpose="x"),
        Row(name="c", found="1", purpose="x", required=True),
    )
    assert [row.name for row in Examination(rows=rows).missing] == ["a"]
