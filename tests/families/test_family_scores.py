"""Which scores a family has, and what a search and a preset make of it."""

import pytest
from families_under_test import CASES

from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.families import family_of, supported_architectures
from vitcop.calibrate.models.families.base import CLASS_FREE_SCORES
from vitcop.calibrate.models.loading import load_config
from vitcop.calibrate.schedule.choices import AT_INPUT
from vitcop.calibrate.schedule.schedule import Schedule, VisionStage
from vitcop.calibrate.search.rules import candidate_rules
from vitcop.pipeline.preflight import load_schedule
from vitcop.plugins.errors import InputError

CLASS_TOKEN = {"llava", "llava_next", "llava_next_video", "internvl"}


@pytest.fixture(scope="module", params=[case for case in CASES if not case.slow], ids=lambda case: case.name)
def folder(request, tmp_path_factory):
    return request.param.build(tmp_path_factory.mktemp("scores") / "model")


@pytest.fixture(scope="module")
def family(folder):
    return family_of(load_config(folder))


def test_every_architecture_has_a_case_that_is_not_slow(tmp_path):
    folders = [case.build(tmp_path / case.name) for case in CASES if not case.slow]
    found = {name for folder in folders for name in load_config(folder).architectures}
    assert found == set(supported_architectures())


def test_scores_follow_from_the_class_token(family):
    expected = ("class_attention",) * (family.name in CLASS_TOKEN) + CLASS_FREE_SCORES
    assert family.vision_scores == expected
    assert family.search_scores == (expected[:1] if family.name in CLASS_TOKEN else CLASS_FREE_SCORES)


def test_a_score_that_does_not_exist_is_refused(family):
    schedule = Schedule(num_layers=family.num_layers, vision=VisionStage(keep=(1, 2)))
    if family.class_token:
        family.check_scores(schedule)
    else:
        with pytest.raises(InputError, match=f"'class_attention' does not exist for family {family.name}; it has mean"):
            family.check_scores(schedule)


def test_a_preset_ranks_by_a_score_that_exists(folder, family):
    from vitcop.calibrate.models.checkpoint import Checkpoint

    schedule = load_schedule("paper-1/3", Checkpoint.open(folder))
    assert schedule.vision.score == family.vision_scores[0]
    family.check_scores(schedule)


def test_a_search_tries_every_score_of_an_encoder_without_class_token():
    rules = candidate_rules(AT_INPUT, CLASS_FREE_SCORES, CalibrationSettings())
    assert {rule.score for rule in rules} == {*CLASS_FREE_SCORES, "uniform"}
    carried = {
        rule.saliency
        for rule in candidate_rules(3, CLASS_FREE_SCORES, CalibrationSettings())
        if rule.score == "vision_saliency"
    }
    assert carried == set(CLASS_FREE_SCORES)
