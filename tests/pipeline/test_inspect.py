"""inspect: facts for people and for machines."""

import json

import pytest
from fake_project import write_model

from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.pipeline.inspection import inspect, inspect_schedule, table

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
