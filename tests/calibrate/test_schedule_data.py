"""The schedule as data, and prompts as data: counts, files, refusals, and batches that lose placeholders."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vitcop.calibrate.presets import preset
from vitcop.calibrate.prompt import batch_prompts, stack_prompts
from vitcop.calibrate.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError

PAPER = preset("paper-1/3", 32, 576)
IMAGE, PAD = 4, 0


def test_counts_follow_layer_by_layer():
    assert PAPER.layer_counts(576) == (288,) * 2 + (253,) * 20 + (51,) * 10
    assert PAPER.groups == (range(0, 2), range(2, 22), range(22, 32))
    assert Schedule(num_layers=3).is_empty and Schedule(num_layers=3).budget(10) == 1.0
    assert Schedule(num_layers=3).budget(0) == 1.0


def test_file_round_trip(tmp_path):
    (tmp_path / "s.json").write_text(PAPER.to_json())
    assert Schedule.load(tmp_path / "s.json") == PAPER
    assert hash(Schedule.from_json(PAPER.to_json())) == hash(PAPER)
    assert replace(PAPER, provenance={"seed": 1}) == PAPER, "provenance is no part of what a schedule is"


def change(path, value):
    data = json.loads(PAPER.to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["schema_version"], 2, "schema_version 2"),
        (["num_layers"], 0, "num_layers"),
        (["num_layers"], ..., "missing key 'num_layers'"),
        (["colour"], 1, "unknown key 'colour'"),
        (["positions"], "new", "original, reindexed"),
        (["vision", "keep"], [3, 2], "3/2 must be above 0"),
        (["vision", "keep"], [1.0, 2], "two integers"),
        (["vision", "score"], "k_norm", "class_attention, uniform, random"),
        (["vision", "clusters"], None, "a merge must be the first drop"),
        (["vision", "clusters", "cutoff_quantile"], 0.2, "exactly one"),
        (["drops"], {}, "expected a list"),
        (["drops", 0, "layer"], 0, "above 0"),
        (["drops", 1, "layer"], 2, "above 2"),
        (["drops", 1, "layer"], 32, "below the number of layers"),
        (["drops", 1, "op"], "merge", "drops[1]: a merge must be the first"),
        (["drops", 0, "order"], "middle", "smallest, largest"),
        (["drops", 0, "keep"], ..., "missing key 'keep'"),
    ],
)
def test_refusals_name_the_field(path, value, said):
    with pytest.raises(InputError) as caught:
        Schedule.from_json(change(path, value), source="s.json")
    assert said in str(caught.value) and str(caught.value).startswith("s.json") and "\n" not in str(caught.value)


def test_saliency_needs_its_stage():
    drop = Drop(layer=1, score="vision_saliency", order="largest", keep=(1, 2))
    for vision in (None, VisionStage(score="uniform", keep=(1, 2))):
        with pytest.raises(InputError, match="vision_saliency needs"):
            Schedule(num_layers=4, vision=vision, drops=(drop,))
    Schedule(num_layers=4, vision=VisionStage(keep=(1, 1), clusters=Clusters(centers=(1, 4))), drops=(drop,))


def prompt(before, visual, after):
    ids = [*range(10, 10 + before), *[IMAGE] * visual, *range(30, 30 + after)]
    return batch_prompts([ids], IMAGE, PAD, {"pixel_values": np.full((1, 2), before, dtype=np.float32)})


def test_stacking_pads_on_the_left():
    stacked = stack_prompts([prompt(1, 3, 2), prompt(4, 3, 1)], PAD)
    assert stacked.input_ids.tolist() == [[0, 0, 10, 4, 4, 4, 30, 31], [10, 11, 12, 13, 4, 4, 4, 30]]
    assert stacked.visual_index.tolist() == [[3, 4, 5], [4, 5, 6]]
    assert stacked.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5], list(range(8))]
    assert stacked.next_position.tolist() == [6, 8]
    assert stacked.vision_inputs["pixel_values"].tolist() == [[1, 1], [4, 4]]
    with pytest.raises(InputError, match=r"numbers of visual tokens \[2, 3\]"):
        stack_prompts([prompt(1, 3, 2), prompt(1, 2, 2)], PAD)


def test_dropping_placeholders_keeps_positions():
    stacked = stack_prompts([prompt(1, 3, 2), prompt(4, 3, 1)], PAD)
    shorter = stacked.after_vision(np.array([[0, 2], [1, 2]]))
    assert shorter.input_ids.tolist() == [[0, 0, 10, 4, 4, 30, 31], [10, 11, 12, 13, 4, 4, 30]]
    assert shorter.position_ids.tolist() == [[0, 0, 0, 1, 3, 4, 5], [0, 1, 2, 3, 5, 6, 7]]
    assert shorter.visual_index.tolist() == [[3, 4], [4, 5]]
    assert shorter.attention_mask.sum(axis=1).tolist() == [5, 7]
    assert shorter.next_position.tolist() == stacked.next_position.tolist()
    assert stacked.after_vision(np.array([[0, 1, 2], [0, 1, 2]])) is stacked
