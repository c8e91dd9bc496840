"""Observing a model: the walk, the scores, attention and gradients, each against another way of saying the same."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.observe import observing
from vitcop.calibrate.observe.dependence import answer_attention, gradient_times_input, remaining
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.observe.observing import observe, observe_part
from vitcop.calibrate.observe.scores import layer_scores, steady_scores
from vitcop.calibrate.observe.teacher_forcing import Forced, walk
from vitcop.calibrate.run.generation import teacher_forced
from vitcop.calibrate.run.scheduled import OriginalRunner, ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache, run_vision
from vitcop.calibrate.schedule.choices import Rule
from vitcop.calibrate.schedule.schedule import Drop, Schedule, VisionStage
from vitcop.calibrate.schedule.score_names import score_name, vision_rule
from vitcop.plugins.errors import MissingError

ANSWERS = [np.array(tokens) for tokens in ([7, 9, 2], [11], [8, 2], [6, 12, 13])]


@pytest.fixture
def forced(tiny, batch) -> Forced:
    return Forced.of(batch, ANSWERS, tiny.model.device)


@pytest.fixture(scope="module")
def planes(tiny, batch):
    return run_vision(tiny.model, tiny.family, batch).planes


@pytest.fixture
def views(tiny, forced, planes):
    seen = []
    with torch.inference_mode():
        walk(tiny.model, tiny.family, forced, planes, seen.append)
    return seen


def evaluator(tiny, batch_size=4, store=None) -> Evaluator:
    settings = CalibrationSettings(batch_size=batch_size, max_new_tokens=3)
    return Evaluator(
        tiny.model, tiny.processor, tiny.family, eos_ids=frozenset({2}), base=0, settings=settings, store=Store(store)
    )


def test_the_walk_is_the_original_with_the_answer_fed_in(tiny, batch, forced, planes):
    with torch.inference_mode():
        logits = walk(tiny.model, tiny.family, forced, planes, lambda seen: None).numpy()
    expected = teacher_forced(OriginalRunner(tiny.model, tiny.family), batch, [row.tolist() for row in ANSWERS])
    for row, tokens in enumerate(ANSWERS):
        np.testing.assert_allclose(logits[row, : len(tokens)], expected[row, : len(tokens)], atol=2e-5)


def test_answer_attention_is_rows_of_the_attention_map(tiny, batch, forced, views):
    tiny.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            maps = tiny.model(
                input_ids=forced.prompt.input_ids,
                attention_mask=forced.prompt.mask.long(),
                pixel_values=torch.tensor(batch.model_inputs["pixel_values"]),
                position_ids=forced.prompt.positions,
                output_attentions=True,
            ).attentions
    finally:
        tiny.model.set_attn_implementation("sdpa")
    for view, whole in zip(views, maps, strict=True):
        found = answer_attention(view, forced, window=None)
        for row, tokens in enumerate(ANSWERS):
            rows = whole[row, :, forced.length - 1 : forced.length - 1 + len(tokens)]
            expected = rows.sum(dim=0).mean(dim=0)[batch.visual_index[row]]
            np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)


def test_a_window_cuts_the_attention(forced, views):
    wide, narrow = (answer_attention(views[0], forced, window=window) for window in (1000, 4))
    np.testing.assert_allclose(wide, answer_attention(views[0], forced, window=None))
    assert narrow.sum() == 0, "the image lies further back than four tokens"


def test_a_drop_takes_the_layers_from_it_on():
    layers = torch.arange(6.0).view(3, 1, 2)
    assert remaining(layers).tolist() == [[[6.0, 9.0]], [[6.0, 8.0]], [[4.0, 5.0]]]


def test_scores_are_those_that_drops_rank_by(tiny, batch, forced, views):
    def scores_of(drop: Drop, vision: VisionStage | None = None) -> np.ndarray:
        runner = ScheduledRunner(tiny.model, tiny.family, Schedule(num_layers=4, vision=vision, drops=(drop,)))
        return runner.prefill(batch).drops[0].scores

    for layer in (1, 3):
        found = layer_scores(views[layer - 1], forced)
        for rule in (Rule(), Rule(head_reduction="mean_norm"), Rule(score="text_query")):
            drop = Drop(layer=layer, score=rule.score, head_reduction=rule.head_reduction, keep=(1, 2))
            (own,) = found.pop(score_name(rule))
            np.testing.assert_allclose(own, scores_of(drop), rtol=1e-5, atol=1e-6)
        assert not found
    output = run_vision(tiny.model, tiny.family, batch)
    steady, blind = steady_scores(output, tiny.family.vision_scores, [5, 25, 45, 65])
    assert set(steady) == set(tiny.family.vision_scores) and len(blind["random"]) > 1
    for name, (own,) in steady.items():
        carried = scores_of(Drop(layer=2, score="vision_saliency", keep=(1, 2)), VisionStage(score=name, keep=(1, 1)))
        np.testing.assert_allclose(own, carried, rtol=1e-5, atol=1e-6)
    assert blind["uniform"][0].sum(dim=1).tolist() == [1.0] * 4, "a ninth of 16 tokens"
    orders = {tuple(row.tolist()) for draw in blind["random"] for row in draw}
    assert len(orders) == 4 * len(blind["random"]), "no two samples share an order"


def test_gradients_against_finite_differences(tiny, batch, forced, planes):
    """Σ_H |∂ log p/∂h · h|, each term by nudging one entry of one token's hidden state before a layer."""
    model = tiny.model.double()
    try:
        found = gradient_times_input(model, tiny.family, forced, [plane.double() for plane in planes])
        decoder = tiny.family.language_model(model)

        def log_p(layer: int, row: int, place: int, entry: int, factor: float) -> float:
            def nudge(module, args):
                hidden = args[0].clone()
                hidden[row, place, entry] *= factor
                return (hidden, *args[1:])

            hook = decoder.layers[layer].register_forward_pre_hook(nudge)
            try:
                with torch.no_grad():
                    logits = walk(model, tiny.family, forced, [p.clone().double() for p in planes], lambda seen: None)
            finally:
                hook.remove()
            told = logits.log_softmax(-1).gather(2, forced.answers.unsqueeze(-1)).squeeze(-1)
            return float((told * forced.told)[row].sum())

        # transformers norms in fp32 whatever the model's type, so much smaller steps drown in rounding.
        step = 2e-3
        for layer, row, token in ((0, 0, 3), (2, 1, 15), (3, 3, 0)):
            place = int(batch.visual_index[row, token])
            size = planes[0].shape[-1]
            terms = [
                (log_p(layer, row, place, entry, 1 + step) - log_p(layer, row, place, entry, 1 - step)) / (2 * step)
                for entry in range(size)
            ]
            expected = sum(map(abs, terms))
            assert expected > 1e-6
            assert float(found[layer, row, token]) == pytest.approx(expected, rel=0.01)
            if layer == 3:
                assert abs(sum(terms)) < 0.01 * expected, "before the last layer the scale of a token means nothing"
    finally:
        tiny.model.float()


def test_gradients_do_not_depend_on_the_batch(tiny, singles, forced, planes):
    together = gradient_times_input(tiny.model, tiny.family, forced, planes)
    for row, single in enumerate(singles):
        padded = gradient_times_input(
            tiny.model, tiny.family, forced.row(row), [plane[row : row + 1] for plane in planes]
        )
        bare = Forced.of(single, ANSWERS[row : row + 1], tiny.model.device)
        alone = gradient_times_input(tiny.model, tiny.family, bare, run_vision(tiny.model, tiny.family, single).planes)
        np.testing.assert_allclose(padded[:, 0], together[:, row], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(alone[:, 0], together[:, row], rtol=1e-3, atol=1e-6)
    assert (together > 0).all()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in tiny.model.parameters())


def test_gradients_within_inference_mode(tiny, forced, planes):
    with torch.inference_mode():
        inside = gradient_times_input(tiny.model, tiny.family, forced, planes)
    np.testing.assert_array_equal(inside, gradient_times_input(tiny.model, tiny.family, forced, planes))


# -- whole sets -------------------------------------------------------------------------------------------------------


def test_agreement_is_what_the_parts_of_it_say(tiny, samples):
    """One sample alone, every number by scipy from the tensors."""
    judge = evaluator(tiny)
    part = judge.part(samples[:1])
    ((_, alone),) = part.prepared
    found = observe_part(tiny.model, tiny.family, judge.vision, part, check_share=1.0)
    forced = Forced.of(alone, [part.targets[samples[0].id].tokens], tiny.model.device)
    views, output = [], run_vision(tiny.model, tiny.family, alone)
    with torch.inference_mode():
        walk(tiny.model, tiny.family, forced, output.planes, views.append)
    cheap = remaining(torch.stack([answer_attention(view, forced, window=None) for view in views]))[:, 0].numpy()
    dear = gradient_times_input(tiny.model, tiny.family, forced, output.planes)[:, 0].numpy()
    (norms,) = layer_scores(views[1], forced)["k_norm"]
    for kind, dependence in (("attention", cheap), ("gradient", dear)):
        rank, largest, smallest = found.values[f"{kind}/2/k_norm"][0]
        assert rank == pytest.approx(spearmanr(norms[0], dependence[2]).statistic, abs=1e-5)
        top, low = int(norms[0].argmax()), int(norms[0].argmin())
        assert (largest, smallest) == pytest.approx(
            (dependence[2, top] / dependence[2].sum(), dependence[2, low] / dependence[2].sum()), abs=1e-5
        )
    assert found.values["check/3"][0][0] == pytest.approx(spearmanr(cheap[3], dear[3]).statistic, abs=1e-5)
    (last,) = layer_scores(views[3], forced)["k_norm"]
    mean, std = found.values["norms/3/mean_key"][0][1:3]
    assert (mean, std) == pytest.approx((float(last.mean()), float(last.std(correction=0))), abs=1e-5)
    (question,) = layer_scores(views[3], forced)["text_query"]
    expected = spearmanr(last[0], question[0]).statistic
    assert found.values["norms/3/text_query"][0][0] == pytest.approx(expected, abs=1e-5)


def test_an_oracle_agrees_with_the_dependence(tiny, samples, monkeypatch):
    """The answer's own attention, smuggled in as a score, agrees with the dependence before the last layer fully."""
    judge = evaluator(tiny)
    held = {}

    def spy(seen, forced, **how):
        held["attention"] = answer_attention(seen, forced, **how)
        return held["attention"]

    def oracle(output, names, seeds):
        return {"class_attention": [held["attention"].clone()]}, steady_scores(output, (), seeds)[1]

    monkeypatch.setattr(observing, "answer_attention", spy)
    monkeypatch.setattr(observing, "steady_scores", oracle)
    found = observe(tiny.model, tiny.family, judge.vision, [judge.part(samples)], check_share=0.0)
    rule = vision_rule(3, "class_attention")
    assert found.rank(3, rule).mean == 1.0 and found.tells(3, rule)
    assert found.rank(3, replace(rule, order="smallest")).mean == -1.0
    assert found.best(3, [Rule(), rule]) == rule
    assert found.num_checked == 0 and found.checks == ()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, samples):
    """The samples, two of them about one picture, and two prompts of text alone."""
    file = tmp_path_factory.mktemp("text") / "t.jsonl"
    lines = [{"id": f"t{i}", "images": [], "prompt": "what is this" + " the" * i} for i in range(2)]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    again = replace(samples[0], id="again", content_digest=samples[1].content_digest[::-1])
    return [*load_samples(file), *samples, again]


def test_text_alone_is_left_out_and_pictures_are_known(tiny, mixed, samples):
    judge = evaluator(tiny)
    found = observe(tiny.model, tiny.family, judge.vision, [judge.part(mixed)])
    assert (found.num, found.pictures) == (len(samples) + 1, len(samples))
    text = observe_part(tiny.model, tiny.family, judge.vision, judge.part(mixed[:2]))
    assert text.ids == () and text.values == {}


def test_eager_attention_observes_the_same(tiny, samples):
    judge = evaluator(tiny)
    part = judge.part(samples)
    fused = observe(tiny.model, tiny.family, judge.vision, [part])
    tiny.model.set_attn_implementation("eager")
    try:
        eager = observe(tiny.model, tiny.family, judge.vision, [part])
    finally:
        tiny.model.set_attn_implementation("sdpa")
    for one, other in zip(fused.agreements, eager.agreements, strict=True):
        assert (one.dependence, one.layer, one.score) == (other.dependence, other.layer, other.score)
        assert one.rank.mean == pytest.approx(other.rank.mean, abs=0.01)


def test_a_gradient_that_overflows_checks_nothing(tiny, samples, monkeypatch):
    judge = evaluator(tiny)
    part = judge.part(samples)
    whole = observe_part(tiny.model, tiny.family, judge.vision, part, check_share=1.0)
    assert all(whole.checked)
    calls = []

    def overflows(*args):
        calls.append(args)
        found = gradient_times_input(*args)
        return found * torch.nan if len(calls) in (2, 5) else found

    monkeypatch.setattr(observing, "gradient_times_input", overflows)
    some = observe_part(tiny.model, tiny.family, judge.vision, part, check_share=1.0)
    assert [i for i, checked in enumerate(some.checked) if not checked] == [1, 4]
    left = [entry for i, entry in enumerate(whole.values["gradient/2/k_norm"]) if i not in (1, 4)]
    assert some.values["gradient/2/k_norm"] == left
    assert "NaN" not in json.dumps(asdict(some)) and Observation.of([some]).num_checked == len(left)


def test_too_little_memory_is_said(tiny, samples, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(observing, "gradient_times_input", full)
    judge = evaluator(tiny)
    with pytest.raises(MissingError, match="do not fit into the device's memory; set check_share to 0"):
        observe_part(tiny.model, tiny.family, judge.vision, judge.part(samples), check_share=1.0)
    assert observe_part(tiny.model, tiny.family, judge.vision, judge.part(samples), check_share=0.0).ids


def test_parts_join_to_one_pass(tiny, mixed):
    judge = evaluator(tiny)
    whole = observe(tiny.model, tiny.family, judge.vision, [judge.part(mixed)], check_share=0.5)
    parts = [judge.part(mixed[:5]), judge.part(mixed[5:])]
    cut = observe(tiny.model, tiny.family, judge.vision, parts, check_share=0.5)
    assert 0 < whole.num_checked < whole.num
    assert (cut.num, cut.pictures, cut.num_checked) == (whole.num, whole.pictures, whole.num_checked)
    for one, other in zip(whole.agreements, cut.agreements, strict=True):
        assert (one.dependence, one.layer, one.score) == (other.dependence, other.layer, other.score)
        # Other batches round otherwise, which may swap two tokens that are almost equal.
        assert one.rank.mean == pytest.approx(other.rank.mean, abs=0.01)
    backwards = observe(tiny.model, tiny.family, VisionCache(), parts[::-1], check_share=0.5)
    assert json.dumps(asdict(backwards)) == json.dumps(asdict(cut))
