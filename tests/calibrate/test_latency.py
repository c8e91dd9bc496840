"""The cost table: fitted coefficients, forecasts and their linear parts, intervals, and files that are not one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vitcop.calibrate.schedule.choices import Rule
from vitcop.calibrate.schedule.latency import (
    BASE,
    DROP_KINDS,
    MEANINGS,
    VISION_KINDS,
    CostTable,
    Trial,
    kind_of,
    prefill_terms,
    vision_terms,
)
from vitcop.calibrate.schedule.latency_fit import Timed, fit, forecast
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError

LAYERS, VISUAL, TEXT = 12, 200, 40
KNEES = (60, 120)
PLANTED = {
    "vision.tower": 8e-3,
    "vision.projector": 6e-6,
    "prefill.fixed": 1e-3,
    "prefill.embedding": 2e-6,
    "layer.token": 8e-6,
    "layer.pair": 1.5e-8,
    "layer.beyond.60": 0.0,
    "layer.beyond.120": 4e-6,
    "vision.clusters": 1e-3,
    "vision.clusters.pair": 5e-8,
    "vision.quantile.pair": 9e-8,
    **{f"vision.score.{kind}": 2e-4 * (i + 1) for i, kind in enumerate(VISION_KINDS)},
    **{f"drop.{kind}": 1e-4 * (i + 1) for i, kind in enumerate(DROP_KINDS)},
    **{f"drop.{kind}.token": 1e-6 for kind in DROP_KINDS},
    **{f"drop.{kind}.pair": 2e-9 * i for i, kind in enumerate(DROP_KINDS)},
}


def some_schedules(count, seed):
    """Random schedules with every kind in them."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        clusters = [
            None,
            Clusters(centers=(1, 8)),
            Clusters(centers=(1, 8), cutoff_distance=None, cutoff_quantile=0.2),
        ][i % 3]
        score = ("class_attention", "mean_query", "key_norm", "key_diversity", "uniform")[i % 5]
        if score == "uniform" and clusters is None:
            score = "key_norm"
        vision = VisionStage(score=score, keep=(int(rng.integers(50, 101)), 100), clusters=clusters)
        layers = sorted(rng.choice(np.arange(1, LAYERS), 3, replace=False).tolist())
        drops = []
        for j, layer in enumerate(layers):
            kind = ("k_norm", "text_query", "vision_saliency", "random")[(i + j) % 4]
            if kind == "vision_saliency" and score == "uniform":
                kind = "k_norm"
            op = "merge" if j == 0 and clusters else "select"
            drops.append(Drop(layer=layer, op=op, score=kind, keep=(int(rng.integers(40, 91)), 100)))
        found.append(Schedule(num_layers=LAYERS, vision=vision, drops=tuple(drops)))
    return found


def made_up_points(schedules, noise, seed=0):
    """Seconds by the planted coefficients, times 1 + noise."""
    rng = np.random.default_rng(seed)
    points = []
    for schedule in schedules:
        for visual, text in ((VISUAL, TEXT), (VISUAL // 2, TEXT), (VISUAL, 2 * TEXT), (VISUAL // 4, TEXT)):
            parts = (vision_terms(schedule, visual, 1.0), prefill_terms(schedule, visual, text, KNEES))
            vision, prefill = (
                sum(PLANTED[name] * factor for name, factor in terms.items()) * float(rng.normal(1, noise))
                for terms in parts
            )
            points.append(Timed(schedule=schedule, num_visual=visual, text_tokens=text, vision=vision, prefill=prefill))
    return points


def make_table(coefficients=PLANTED, trials=(), **changes):
    settings = {
        "model_id": "made-up",
        "config_hash": "ab" * 32,
        "num_layers": LAYERS,
        "target": "onnxruntime",
        "options": {"threads": 1},
        "dtype": "float32",
        "rows": 1,
        "visual_tokens": VISUAL,
        "text_tokens": TEXT,
        "machine": {"cores": 2},
        "settings": {"repeats": 3},
        "coefficients": dict(coefficients),
        "fit_errors": (0.01, 0.03),
        "trials": tuple(trials),
    }
    return CostTable(**settings | changes)


TRIALS = tuple(
    Trial(schedule=str(i), num_visual=VISUAL, text_tokens=TEXT, forecast=0.1, measured=0.1 * ratio)
    for i, ratio in enumerate((0.95, 1.0, 1.1, 1.02))
)
PLAIN = Schedule(num_layers=LAYERS)


class TestFit:
    def test_exact_times_give_the_planted_forecasts_anywhere(self):
        found = fit(made_up_points([PLAIN, *some_schedules(30, seed=1)], noise=0.0), KNEES)
        assert set(found) <= set(PLANTED) and min(found.values()) >= 0
        for name in ("vision.tower", "vision.projector", "layer.token", "layer.pair", "layer.beyond.120"):
            assert found[name] == pytest.approx(PLANTED[name], rel=0.02), name
        for point in made_up_points(some_schedules(20, seed=2), noise=0.0):
            assert sum(forecast(found, point, KNEES)) == pytest.approx(point.vision + point.prefill, rel=1e-4)

    def test_noisy_times_give_forecasts_better_than_the_noise(self):
        found = fit(made_up_points([PLAIN, *some_schedules(12, seed=3)], noise=0.05), KNEES)
        errors = [
            abs(sum(forecast(found, point, KNEES)) / (point.vision + point.prefill) - 1)
            for point in made_up_points(some_schedules(20, seed=4), noise=0.0)
        ]
        assert np.median(errors) < 0.03 and max(errors) < 0.12

    def test_a_slow_prompt_weighs_no_more_than_a_fast_one(self):
        """Errors are relative: one prompt of a thousand times the time does not decide the fit of the others."""
        points = made_up_points([PLAIN] * 8, noise=0.0)
        slow = replace(points[0], num_visual=40 * VISUAL, prefill=40 * 12 * points[0].prefill)
        found = fit([*points, slow], KNEES)
        for point in points:
            assert forecast(found, point, KNEES)[1] == pytest.approx(point.prefill, rel=0.05)

    def test_a_runtime_that_tells_no_time(self):
        points = [replace(point, vision=0.0) for point in made_up_points([PLAIN], noise=0.0)]
        with pytest.raises(InputError, match="no time of its vision"):
            fit(points, KNEES)


class TestForecast:
    @pytest.mark.parametrize("schedule", [PLAIN, *some_schedules(6, seed=5)])
    def test_seconds_are_the_sum_of_the_linear_parts(self, schedule):
        table = make_table()
        counts, visual = schedule.group_counts(VISUAL), schedule.layer_counts(VISUAL)
        parts = [table.input_seconds(schedule.vision, VISUAL, TEXT)]
        parts += [table.layer_seconds(count + TEXT) for count in visual]
        parts += [
            table.drop_seconds(Rule(op=drop.op, score=drop.score), before)
            for drop, before in zip(schedule.drops, counts, strict=False)
        ]
        whole = sum(
            PLANTED[name] * factor
            for terms in (vision_terms(schedule, VISUAL, 1.0), prefill_terms(schedule, VISUAL, TEXT, KNEES))
            for name, factor in terms.items()
        )
        assert table.seconds(schedule, VISUAL, TEXT) == pytest.approx(sum(parts), rel=1e-12)
        assert sum(parts) == pytest.approx(whole, rel=1e-12)

    def test_by_hand(self):
        """Two layers, 10 visual tokens of the 200 that were timed, 5 kept by the vision stage, 2 by the drop, 1 of
        text."""
        vision = VisionStage(score="key_norm", keep=(1, 2))
        schedule = Schedule(num_layers=2, vision=vision, drops=(Drop(layer=1, score="random", keep=(2, 5)),))
        table = make_table(num_layers=2)
        by_hand = (
            (10 / 200) * (PLANTED["vision.tower"] + PLANTED["vision.score.key_norm"])
            + 5 * PLANTED["vision.projector"]
            + PLANTED["prefill.fixed"]
            + 6 * PLANTED["prefill.embedding"]
            + (6 + 3) * PLANTED["layer.token"]
            + (36 + 9) * PLANTED["layer.pair"]
            + PLANTED["drop.control"]
            + 5 * PLANTED["drop.control.token"]
            + 25 * PLANTED["drop.control.pair"]
        )
        assert table.seconds(schedule, 10, 1) == pytest.approx(by_hand, rel=1e-12)

    def test_fewer_tokens_never_take_longer(self):
        table = make_table()
        lengths = [table.layer_seconds(count) for count in range(1, 400)]
        assert lengths == sorted(lengths) and lengths[0] > 0

    def test_merging_costs_its_score_and_its_own(self):
        table = make_table()
        merge, select = (table.drop_seconds(Rule(op=op, score="text_query"), 50) for op in ("merge", "select"))
        own = PLANTED["drop.merge"] + 50 * PLANTED["drop.merge.token"] + 2500 * PLANTED["drop.merge.pair"]
        assert merge - select == pytest.approx(own, rel=1e-9)
        assert kind_of("uniform") == kind_of("random") != kind_of("k_norm")

    def test_a_kind_that_was_not_timed(self):
        table = make_table({name: value for name, value in PLANTED.items() if "text_query" not in name})
        with pytest.raises(InputError, match=r"no time of drop \(text_query\).* measure again"):
            table.drop_seconds(Rule(score="text_query"), 10)

    def test_a_schedule_of_another_depth(self):
        with pytest.raises(InputError, match="12 layers, the schedule of 4"):
            make_table().seconds(Schedule(num_layers=4), VISUAL, TEXT)

    def test_errors_and_interval_of_the_trials(self):
        table = make_table(trials=TRIALS)
        errors = sorted([0.05 / 0.95, 0.0, 0.1 / 1.1, 0.02 / 1.02])
        assert table.median_error == pytest.approx((errors[1] + errors[2]) / 2)
        assert table.worst_error == pytest.approx(errors[-1])
        assert table.interval(2.0) == pytest.approx((1.9, 2.2)) and table.coverage == pytest.approx(3 / 5)

    def test_without_trials_nothing_is_promised(self):
        table = make_table()
        assert table.median_error is None and table.worst_error is None
        assert table.interval(2.0) == (0.0, float("inf")) and table.coverage == 1.0

    def test_the_interval_covers_as_often_as_it_says(self):
        """Ratios of any one distribution: the next one lies within the range of n others in (n − 1)/(n + 1) cases."""
        rng = np.random.default_rng(0)
        hits, rounds = 0, 4000
        for ratios in rng.lognormal(0.02, 0.1, (rounds, 9)):
            trials = [replace(TRIALS[0], forecast=1.0, measured=ratio) for ratio in ratios[:8].tolist()]
            table = make_table(trials=trials)
            low, high = table.interval(1.0)
            hits += low <= ratios[8] <= high
        assert hits / rounds == pytest.approx(table.coverage, abs=0.02)


class TestFile:
    def test_the_same_comes_back(self, tmp_path):
        table = make_table(trials=TRIALS)
        path = tmp_path / "cost.json"
        path.write_text(table.to_json())
        assert CostTable.load(path) == table and CostTable.load(path).to_json() == table.to_json()
        data = json.loads(path.read_text())
        assert data["errors"]["trials_median"] == table.median_error
        assert data["coefficients"]["layer.beyond.120"] == {
            "seconds": 4e-6,
            "each": "token of a decoder layer beyond its first 120",
        }

    def test_every_coefficient_has_a_meaning(self):
        assert set(PLANTED) - {"layer.beyond.60", "layer.beyond.120"} == set(MEANINGS)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"schema_version": 2}, "schema_version 2 is not known"),
            ({"config_hash": 5}, "config_hash: expected a text"),
            ({"visual_tokens": 0}, "visual_tokens: expected a positive integer"),
            ({"rows": True}, "rows: expected an integer"),
            ({"extra": 1}, "unknown key 'extra'"),
            ({"coefficients": []}, "coefficients: expected an object"),
            ({"fit_errors": [float("nan")]}, "not readable as JSON"),
            ({"fit_errors": ["x"]}, r"fit_errors\[0\]: expected a number"),
            ({"trials": [{}]}, r"trials\[0\]: missing key 'schedule'"),
        ],
    )
    def test_a_wrong_file(self, tmp_path, change, said):
        path = tmp_path / "cost.json"
        path.write_text(json.dumps(json.loads(make_table(trials=TRIALS).to_json()) | change))
        with pytest.raises(InputError, match=said) as error:
            CostTable.load(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "entry", "said"),
        [
            ("layer.token", {"seconds": -1e-9, "each": ""}, "expected a number of at least 0"),
            ("layer.token", 1e-9, "expected an object"),
            ("layer.cube", {"seconds": 1e-9, "each": ""}, "unknown coefficient 'layer.cube'"),
            ("layer.beyond.0", {"seconds": 1e-9, "each": ""}, "unknown coefficient"),
            ("layer.token", {"seconds": 1e-9}, "layer.token: missing key 'each'"),
        ],
    )
    def test_wrong_coefficients(self, name, entry, said):
        data = json.loads(make_table().to_json())
        data["coefficients"][name] = entry
        with pytest.raises(InputError, match=said):
            CostTable.from_json(json.dumps(data))

    @pytest.mark.parametrize("name", sorted(BASE))
    def test_missing_coefficients(self, name):
        data = json.loads(make_table().to_json())
        del data["coefficients"][name]
        with pytest.raises(InputError, match=f"missing coefficient '{name}'"):
            CostTable.from_json(json.dumps(data))

    @pytest.mark.parametrize("key", ["coefficients", "trials", "config_hash", "schema_version"])
    def test_missing_keys(self, key):
        data = json.loads(make_table().to_json())
        del data[key]
        with pytest.raises(InputError, match=key):
            CostTable.from_json(json.dumps(data))

    @pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
    def test_what_is_no_table_at_all(self, text):
        with pytest.raises(InputError, match=r"^cost\.json: "):
            CostTable.from_json(text)

    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
            CostTable.load(tmp_path / "nowhere.json")

    def test_another_model(self):
        table = make_table()
        table.check_model("ab" * 32)
        with pytest.raises(InputError, match="'made-up' .*measure again"):
            table.check_model("cd" * 32)
