"""The schedule as data, and prompts as data: counts, files, refusals, and batches that lose placeholders."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vitcop.calibrate.models.prompt import batch_prompts
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError

PAPER = preset("paper-1/3", 32, 576)
IMAGE, PAD = 4, 0


def test_counts_follow_layer_by_layer():
    assert PAPER.layer_counts(576) == (288,) * 2 + (253,) * 20 + (51,) * 10
    assert PAPER.groups == (range(2), range(2, 22), range(22, 32))
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
        (["positions"], "reindexed", "'reindexed' is not one of original"),
        (["vision", "keep"], [3, 2], "3/2 must be above 0"),
        (["vision", "keep"], [1.0, 2], "vision.keep[0]: expected an integer"),
        (["vision", "score"], "k_norm", "key_diversity, uniform, random"),
        (["vision", "clusters"], None, "a merge must be the first drop"),
        (["vision", "clusters", "cutoff_quantile"], 0.2, "exactly one"),
        (["drops"], {}, "expected a list"),
        (["drops", 0, "layer"], 0, "above 0"),
        (["drops", 1, "layer"], 2, "above 2"),
        (["drops", 1, "layer"], 32, "below the number of layers"),
        (["drops", 1, "op"], "merge", "drops[1]: a merge must be the first"),
        (["drops", 0, "order"], "middle", "smallest, largest"),
        (["drops", 0, "keep"], ..., "missing key 'keep'"),
        (["schema_version"], True, "schema_version True"),
        (["num_layers"], True, "num_layers"),
        (["num_layers"], 32.0, "num_layers"),
        (["model_id"], 7, "model_id: expected a text"),
        (["config_hash"], None, "config_hash: expected a text"),
        (["provenance"], [], "provenance: expected an object"),
        (["provenance", "measured"], float("inf"), "Infinity is not JSON"),
        (["vision"], 3, "vision: expected an object"),
        (["vision", "seed"], -1, "vision.seed: expected an integer from 0"),
        (["vision", "keep"], [True, 2], "vision.keep[0]: expected an integer"),
        (["vision", "keep"], [1, 2, 3], "vision.keep: expected a list of 2"),
        (["vision", "keep"], [0, 2], "vision.keep: 0/2 must be above 0"),
        (["vision", "keep"], [1, 2**31], "parts below 2147483648"),
        (["vision", "clusters", "cutoff_distance"], 0, "cutoff_distance: expected a number above 0"),
        (["vision", "clusters", "cutoff_distance"], "8", "cutoff_distance: expected a number, found '8'"),
        (["vision", "clusters", "cutoff_distance"], True, "cutoff_distance: expected a number, found True"),
        (["vision", "clusters", "cutoff_distance"], float("nan"), "NaN is not JSON"),
        (["vision", "clusters", "spatial_radius"], -0.1, "spatial_radius: expected a number of at least 0"),
        (["vision", "clusters", "spatial_radius"], 1e40, "spatial_radius: expected a number of at least 0"),
        (["vision", "clusters", "spatial_radius"], None, "spatial_radius: expected a number, found None"),
        (["drops", 0, "layer"], True, "drops[0].layer: expected an integer, found True"),
        (["drops", 0, "layer"], "2", "drops[0].layer: expected an integer, found '2'"),
        (["drops", 0, "seed"], 2**31, "drops[0].seed: expected an integer from 0 to 2147483647"),
        (["drops", 1, "seed"], 1.0, "drops[1].seed: expected an integer"),
        (["drops", 1, "seed"], True, "drops[1].seed: expected an integer"),
        (["drops"], "select", "drops: expected a list"),
    ],
)
def test_refusals_name_the_field(path, value, said):
    with pytest.raises(InputError) as caught:
        Schedule.from_json(change(path, value), source="s.json")
    assert said in str(caught.value) and str(caught.value).startswith("s.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"num_layers": 1' + "0" * 5000 + "}", "3", '{"num_layers": 3}'])
def test_text_that_is_no_schedule(text):
    with pytest.raises(InputError, match="^s.json: ") as caught:
        Schedule.from_json(text, source="s.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 1, 1.0, -0.5, "0.2", True, float("nan")])
def test_quantiles_are_shares(value):
    with pytest.raises(InputError, match="^cutoff_quantile: expected a number"):
        Clusters(centers=(1, 4), cutoff_distance=None, cutoff_quantile=value)


def test_schedules_made_in_code_are_checked_too():
    with pytest.raises(InputError, match="^drops: expected what tuple"):
        Schedule(num_layers=4, drops=[Drop(layer=1, keep=(1, 2))])
    with pytest.raises(InputError, match="^vision: expected what .*VisionStage"):
        Schedule(num_layers=4, vision={"keep": [1, 2]})
    with pytest.raises(InputError, match="^provenance: expected what JSON can hold"):
        Schedule(num_layers=4, provenance={"measured": float("inf")})
    for keep, said in (((np.int64(1), 2), r"^keep\[0\]: expected an integer"), (0.5, "^keep: expected a list")):
        with pytest.raises(InputError, match=said):
            Drop(layer=1, keep=keep)
    for distance in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="^cutoff_distance: expected a number above 0"):
            Clusters(centers=(1, 4), cutoff_distance=distance)


def test_saliency_needs_its_stage():
    drop = Drop(layer=1, score="vision_saliency", order="largest", keep=(1, 2))
    for vision in (None, VisionStage(score="uniform", keep=(1, 2))):
        with pytest.raises(InputError, match="vision_saliency needs"):
            Schedule(num_layers=4, vision=vision, drops=(drop,))
    Schedule(num_layers=4, vision=VisionStage(keep=(1, 1), clusters=Clusters(centers=(1, 4))), drops=(drop,))


def prompt(before, visual, after):
    return [*range(10, 10 + before), *[IMAGE] * visual, *range(30, 30 + after)]


def test_batching_pads_on_the_left():
    stacked = batch_prompts([prompt(1, 3, 2), prompt(4, 3, 1)], (IMAGE,), PAD)
    assert stacked.input_ids.tolist() == [[0, 0, 10, 4, 4, 4, 30, 31], [10, 11, 12, 13, 4, 4, 4, 30]]
    assert stacked.visual_index.tolist() == [[3, 4, 5], [4, 5, 6]]
    assert stacked.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5], list(range(8))]
    assert stacked.next_position.tolist() == [6, 8]
    assert stacked.token_ids() == [prompt(1, 3, 2), prompt(4, 3, 1)]
    with pytest.raises(InputError, match=r"numbers of visual tokens \[2, 3\]"):
        batch_prompts([prompt(1, 3, 2), prompt(1, 2, 2)], (IMAGE,), PAD)


def test_dropping_placeholders_keeps_positions():
    stacked = batch_prompts([prompt(1, 3, 2), prompt(4, 3, 1)], (IMAGE,), PAD)
    shorter = stacked.after_drop(np.array([[0, 2], [1, 2]]))
    assert shorter.input_ids.tolist() == [[0, 0, 10, 4, 4, 30, 31], [10, 11, 12, 13, 4, 4, 30]]
    assert shorter.position_ids.tolist() == [[0, 0, 0, 1, 3, 4, 5], [0, 1, 2, 3, 5, 6, 7]]
    assert shorter.visual_index.tolist() == [[3, 4], [4, 5]]
    assert shorter.attention_mask.sum(axis=1).tolist() == [5, 7]
    assert shorter.next_position.tolist() == stacked.next_position.tolist()
    assert stacked.after_drop(np.array([[0, 1, 2], [0, 1, 2]])) is stacked
