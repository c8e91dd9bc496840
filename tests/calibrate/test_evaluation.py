"""The evaluator: any runner, any task metric."""

from unittest.mock import Mock

import pytest

from vitcop.calibrate.baselines import VisionZip
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.task_scores import anls, exact_match
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import preset
from vitcop.plugins.errors import InputError


def evaluator(tiny, store=None, **changes) -> Evaluator:
    settings = CalibrationSettings(batch_size=4, max_new_tokens=3, **changes)
    return Evaluator(
        tiny.model,
        tiny.processor,
        tiny.family,
        eos_ids=tiny.checkpoint.eos_ids,
        base=["tiny"],
        settings=settings,
        store=Store(store),
    )


def test_a_schedule_is_one_of_many_runners(tiny, samples):
    measuring = evaluator(tiny)
    part = measuring.part(samples)
    schedule = preset("paper-1/3", 4, 16)
    runner = ScheduledRunner(tiny.model, tiny.family, schedule)
    assert measuring.measure_runner(runner, part, answers=True) == measuring.measure(schedule, part, answers=True)
    rival = VisionZip().runner(tiny.model, tiny.family, measuring.vision, budget=1 / 3, num_visual=16)
    found = measuring.measure_runner(rival, part)
    assert found.is_finite and sum(found.kl) > 0 and set(found.exact) == set(found.score) == {None}


def test_the_score_is_by_the_metric_of_the_settings(tiny, samples, monkeypatch):
    """Answers that are nearly right: worth something in text reading, nothing in exact match."""
    said = {sample.id: text for sample, text in zip(samples, ["red", "rad", "blue"] * 4, strict=True)}
    for metric, function in (("exact_match", exact_match), ("anls", anls)):
        measuring = evaluator(tiny, metric=metric)
        part = measuring.part(samples)
        order = [sample.id for members, _ in part.prepared for sample in members]
        spoken = Mock(side_effect=[said[sample] for sample in order])
        monkeypatch.setattr(measuring.processor.tokenizer, "decode", spoken)
        found: Losses = measuring.original(part)
        assert found.by_id("score") == {sample: function(said[sample], ["red"]) for sample in order}
        assert found.by_id("exact") == {sample: float(said[sample] == "red") for sample in order}


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match="'bleu' is not one of exact_match, vqa_accuracy, anls, multiple_choice"):
        CalibrationSettings(metric="bleu")
