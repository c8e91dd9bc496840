"""Which scores a family has, and what a search and a preset make of it."""

import pytest
from families_under_test import CASES

from vitcop.calibrate.candidates import Candidate, PaperKind, SearchSpace
from vitcop.calibrate.families import family_of, supported_architectures
from vitcop.calibrate.families.base import CLASS_FREE_SCORES
from vitcop.calibrate.loading import load_config
from vitcop.calibrate.schedule import Schedule, VisionStage
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
    from vitcop.calibrate.checkpoint import Checkpoint

    schedule = load_schedule("paper-1/3", Checkpoint.open(folder))
    assert schedule.vision.score == family.vision_scores[0]
    family.check_scores(schedule)


def test_a_search_tries_every_score_of_an_encoder_without_class_token():
    space = SearchSpace.of(8, vision_scores=CLASS_FREE_SCORES)
    made = [candidate.schedule(8, 144, 1 / 3) for candidate in space.shuffled(0)]
    assert {schedule.vision.score for schedule in made if schedule and schedule.vision} == set(CLASS_FREE_SCORES)
    one = Candidate(vision_factor=1.0, vision_score="key_norm")
    others = {candidate.vision_score for candidate in space.neighbours(one)}
    assert others == {"mean_query", "key_diversity"} and "key_norm" in one.name
    assert PaperKind(vision_score="mean_query").schedule(8, 144, 1 / 3).vision.score == "mean_query"
