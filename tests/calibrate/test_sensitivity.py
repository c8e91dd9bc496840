"""The sensitivity table: who is cut and who never is, joining, its file, and the grid."""

import itertools
import math
from dataclasses import fields

import numpy as np
import pytest
from made_samples import write_samples

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses
from vitcop.calibrate.evaluate.grid import candidate_layers, cells, keep_counts
from vitcop.calibrate.evaluate.sensitivity import (
    LEAST_IMAGES,
    measure_cell,
    still_open,
)
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, schedule_of
from vitcop.calibrate.schedule.presets import paper_layers

RULES = (
    Rule(order="smallest"),
    Rule(order="largest"),
    Rule(order="largest", head_reduction="mean_norm"),
    Rule(score="text_query", order="largest"),
    Rule(score="vision_saliency", order="largest"),
    Rule(score="uniform", order="largest"),
    Rule(score="random", order="largest"),
    Rule(op="merge", cutoff_quantile=0.2),
    Rule(op="merge", merge="mean", cutoff_quantile=0.2),
)
SPACE = {"num_visual": 16, "saliency": "class_attention", "centers": (1, 4)}


def choices(layer=2, keep=4, rules=RULES):
    return [Choice(layer=layer, keep=keep, rule=rule) for rule in rules]


def losses_of(ids, kl, **columns):
    """Losses of these samples; columns that are not given were not measured."""
    empty = {field.name: (None,) * len(kl) for field in fields(Losses)}
    return Losses(**{**empty, "ids": tuple(ids), "kl": tuple(kl), "top1": (1.0,) * len(kl), **columns})


# -- who is cut -------------------------------------------------------------------------------------------------------


class Told:
    """Stands in for an evaluator: KL by the name of a rule and the sample's number, and a log of what was measured."""

    class family:
        num_layers = 4

    def __init__(self, kl):
        self.kl, self.measured = kl, []

    def measure(self, schedule, part):
        (drop,) = schedule.drops
        self.measured.append((drop.score, part.digest))
        samples = [sample for members, _ in part.prepared for sample in members]
        values = [float(self.kl(drop.score, int(sample.id))) for sample in samples]
        return losses_of([sample.id for sample in samples], values)


class Sample:
    def __init__(self, number, image):
        self.id, self.picture_digests = str(number), (image,)


class Part:
    def __init__(self, numbers, image_of):
        self.digest = f"{numbers[0]}-"
        self.prepared = [([Sample(i, image_of(i)) for i in numbers], None)]


def parts_of(*sizes, image_of=lambda i: i):
    starts = itertools.accumulate(sizes, initial=0)
    return [Part(range(start, start + size), image_of) for start, size in zip(starts, sizes, strict=False)]


FOUR = tuple(Rule(score=score, order="largest") for score in ("text_query", "k_norm", "uniform", "random"))


def test_clearly_worse_choices_are_cut_early():
    noise = np.random.default_rng(0).random(64)
    base = {"text_query": 0.1, "k_norm": 0.12, "uniform": 0.5, "random": 0.9}
    told = Told(lambda score, i: base[score] + 0.3 * noise[i] * noise[(i * 7 + len(score)) % 64])
    rows = measure_cell(told, choices(rules=FOUR), parts_of(16, 16, 32), **SPACE)
    seen = {row.choice.rule.score: (len(row.losses.ids), row.survived) for row in rows}
    assert seen == {"text_query": (64, True), "k_norm": (64, True), "uniform": (16, False), "random": (16, False)}
    assert told.measured.count(("uniform", "0-")) == 1 and ("uniform", "16-") not in told.measured
    assert all(row.losses.ids == tuple(str(i) for i in range(len(row.losses.ids))) for row in rows)
    assert next(row for row in rows if row.survived).kl.num == 64


def test_pairing_sees_what_separate_errors_would_not():
    """A difference of 0.05 on every sample, among samples that differ by far more."""
    level = np.random.default_rng(1).random(16) * 10
    kl = {name: tuple(level + shift) for name, shift in (("a", 0.0), ("b", 0.05))}
    assert still_open(kl_of(kl), range(16)) == [choice_named("a")]
    apart = {"a": tuple(level), "b": tuple(level[::-1] + 0.05)}
    assert len(still_open(kl_of(apart), range(16))) == 2


def choice_named(name):
    return Choice(layer=1, keep=2, rule=Rule(score="text_query", order="largest", merge=name))


def kl_of(by_name):
    return {choice_named(name): values for name, values in by_name.items()}


def test_samples_of_one_image_are_one_piece_of_evidence():
    steps = [0.5, 0.4, 0.6, 0.5] * 4
    kl = kl_of({"a": (0.0,) * 16, "b": tuple(steps)})
    assert len(still_open(kl, range(16))) == 1
    assert len(still_open(kl, [i // 4 for i in range(16)])) == 2, "four images"
    assert len(still_open(kl, [i // 2 for i in range(16)])) == 1, f"{LEAST_IMAGES} images"


def test_a_cell_counts_images():
    worse = Told(lambda score, i: len(score) + 0.1 * (i % 3))
    alone, shared = (
        measure_cell(worse, choices(rules=FOUR), parts_of(16, 16, image_of=image_of), **SPACE)
        for image_of in (lambda i: i, lambda i: i // 4)
    )
    assert sum(row.survived for row in alone) < len(FOUR) and all(row.survived for row in shared)


def test_something_always_survives():
    for value in (0.0, 0.5, math.inf):
        rows = measure_cell(Told(lambda *_, value=value: value), choices(rules=FOUR), parts_of(16, 16), **SPACE)
        assert all(row.survived for row in rows), "equal losses"
    rows = measure_cell(
        Told(lambda score, i: math.inf if score != "random" and i == 3 else 9.0),
        choices(rules=FOUR),
        parts_of(4, 12),
        **SPACE,
    )
    assert [row.choice.rule.score for row in rows if row.survived] == ["random"], "not finite: cut at once"


def test_nobody_is_cut_after_the_last_part():
    rows = measure_cell(
        Told(lambda score, i: len(score) * (i > 15) + 1), choices(rules=FOUR), parts_of(16, 16), **SPACE
    )
    assert all(row.survived and len(row.losses.ids) == 32 for row in rows)


def test_few_images_cut_nobody():
    few = parts_of(LEAST_IMAGES - 1, 8)
    rows = measure_cell(Told(lambda score, i: len(score)), choices(rules=FOUR), few, **SPACE)
    assert all(row.survived for row in rows)


# -- on a model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluator(tiny):
    return Evaluator(
        tiny.model,
        tiny.processor,
        tiny.family,
        eos_ids=tiny.checkpoint.eos_ids,
        base=["test"],
        settings=CalibrationSettings(batch_size=4, max_new_tokens=2),
        store=Store(None),
    )


@pytest.fixture(scope="module")
def parts(evaluator, tmp_path_factory):
    samples = load_samples(write_samples(tmp_path_factory.mktemp("cell"), 20, 5, "s"))
    return [evaluator.part(samples[:8]), evaluator.part(samples[8:12]), evaluator.part(samples[12:])]


@pytest.mark.parametrize("layer", [AT_INPUT, 1, 3])
def test_a_cell_of_a_model(layer, evaluator, parts):
    rules = RULES
    if layer == AT_INPUT:
        rules = tuple(Rule(score=score, order="largest") for score in ("class_attention", "key_norm", "random"))
    ticks = []
    rows = measure_cell(evaluator, choices(layer, 4, rules), parts, **SPACE, advance=lambda: ticks.append(1))
    assert {row.choice for row in rows} == set(choices(layer, 4, rules)) and any(row.survived for row in rows)
    assert [row.choice.name for row in rows] == sorted(row.choice.name for row in rows)
    assert {len(row.losses.ids) for row in rows if row.survived} == {20}
    assert all(len(row.losses.ids) in (8, 12) for row in rows if not row.survived)
    assert len(ticks) == sum({8: 1, 12: 2, 20: 3}[len(row.losses.ids)] for row in rows)
    for row in rows:
        schedule = schedule_of([row.choice], num_layers=4, **SPACE)
        seen = parts[: {8: 1, 12: 2, 20: 3}[len(row.losses.ids)]]
        assert row.losses == Losses.joined([evaluator.measure(schedule, part) for part in seen])
    again = measure_cell(evaluator, choices(layer, 4, rules)[::-1], parts, **SPACE)
    assert again == rows


def test_cells_do_not_mix(evaluator, parts):
    with pytest.raises(AssertionError, match="one layer and keep count"):
        measure_cell(evaluator, [*choices(1), *choices(2)], parts, **SPACE)


# -- tables -----------------------------------------------------------------------------------------------------------

RUN = {"model": "abc", "samples": ["x", 3], "seed": 0}


# -- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [2, 3, 8, 13, 14, 24, 28, 32, 36, 48, 80])
def test_layers_of_the_grid(num_layers):
    layers = candidate_layers(num_layers)
    assert list(layers) == sorted(set(layers)) and layers[0] == 1 and layers[-1] < num_layers
    assert num_layers < 3 or set(paper_layers(num_layers)) <= set(layers)
    assert len(layers) == num_layers - 1 if num_layers <= 13 else 10 <= len(layers) <= 15
    gaps = np.diff([*layers, num_layers])
    assert gaps.max() <= max(1, math.ceil(num_layers / 10))


def test_keep_counts_of_the_grid():
    assert keep_counts(144) == (91, 57, 36, 23, 14, 9, 6, 4)
    assert keep_counts(576)[-1] == 14 and len(keep_counts(576)) == 8
    assert keep_counts(3) == (2, 1) and keep_counts(1) == () and keep_counts(0) == ()
    assert keep_counts(100, num=2, least=0.25) == (50, 25)


def test_cells():
    made = cells(8, 144)
    assert len(made) == len(set(made)) == 64
    assert made[0].layer == AT_INPUT and made[0].keep == 91 and (made[-1].layer, made[-1].keep) == (7, 4)
    assert [(cell.layer, cell.keep) for cell in cells(8, 144, layers=[2, 5], keeps=[9])] == [(2, 9), (5, 9)]
