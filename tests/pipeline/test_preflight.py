"""What is refused before a model runs: splits that share a question."""

from dataclasses import replace

import pytest

from vitcop.calibrate.data.samples import load_samples
from vitcop.pipeline.preflight import refuse_shared_samples
from vitcop.plugins.errors import InputError


def test_a_question_in_two_splits(project):
    splits = {name: load_samples(project / "data" / f"{name}.jsonl") for name in ("calibration", "evaluation")}
    refuse_shared_samples(splits)
    copy = replace(splits["calibration"][1], id="new", answers=("red",), subset="other", digest="0")
    with pytest.raises(InputError, match="sample new is also in data.calibration .as calibration-1.; splits may"):
        refuse_shared_samples({**splits, "evaluation": [*splits["evaluation"], copy]})
