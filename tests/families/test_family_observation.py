"""Every family, observed: the walk over prompt and answer is the model's own teacher forcing, and gradients reach every
layer."""

import numpy as np
import pytest
import torch
from families_under_test import CASES
from family_case import prepare

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.observe.dependence import answer_attention, gradient_times_input
from vitcop.calibrate.observe.scores import layer_scores, steady_scores
from vitcop.calibrate.observe.teacher_forcing import Forced, walk
from vitcop.calibrate.run.generation import teacher_forced
from vitcop.calibrate.run.scheduled import OriginalRunner
from vitcop.calibrate.run.vision_stage import run_vision

PARAMS = [pytest.param(case, id=case.name, marks=[pytest.mark.slow] * case.slow) for case in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def subject(request, tmp_path_factory):
    case = request.param
    model, processor, family = load_model(Checkpoint.open(case.build(tmp_path_factory.mktemp(case.name) / "model")))
    batches = {name: prepare(family, processor, prompts) for name, prompts in case.batches.items()}
    return model, family, {name: batch for name, batch in batches.items() if batch.num_visual}


def test_the_walk_is_the_original_and_gradients_reach_every_layer(subject):
    model, family, batches = subject
    for name, batch in batches.items():
        rows = len(batch.input_ids)
        answers = [np.arange(3, 6 + row % 2) for row in range(rows)]
        forced, output = Forced.of(batch, answers, model.device), run_vision(model, family, batch)
        attention = []

        def look(seen, forced=forced, attention=attention):
            window = family.window if seen.layer in family.sliding_layers else None
            attention.append(answer_attention(seen, forced, window=window))
            scores = layer_scores(seen, forced)
            assert all(draw.shape == forced.prompt.visual_index.shape for draws in scores.values() for draw in draws)

        with torch.inference_mode():
            logits = walk(model, family, forced, output.planes, look).float().numpy()
            assert set(steady_scores(output, family.vision_scores, range(rows))[0]) == set(family.vision_scores)
        expected = teacher_forced(OriginalRunner(model, family), batch, [row.tolist() for row in answers])
        for row, tokens in enumerate(answers):
            told = slice(0, len(tokens))
            np.testing.assert_allclose(logits[row, told], expected[row, told], atol=1e-4, err_msg=name)
        assert len(attention) == family.num_layers
        assert all(torch.isfinite(layer).all() and (layer >= 0).all() for layer in attention)
        gradients = gradient_times_input(model, family, forced.row(rows - 1), [plane[-1:] for plane in output.planes])
        assert gradients.shape == (family.num_layers, 1, batch.num_visual)
        assert torch.isfinite(gradients).all() and (gradients.amax(dim=(1, 2)) > 0).all()
