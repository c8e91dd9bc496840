"""The search: its space, its budget, its controls, its files, and that it can be stopped and gone on with."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_samples import write_samples
from safetensors.numpy import load_file, save_file

from vitcop.calibrate.core.digests import key_of
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.evaluate import evaluation
from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.run.generation import continue_forced
from vitcop.calibrate.schedule.cost import Cost, DecoderShape, prefill_cost
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.search.calibrating import calibrate
from vitcop.calibrate.search.calibration import Calibration
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

SETTINGS = CalibrationSettings(
    batch_size=4,
    max_new_tokens=2,
    keep_counts=2,
    forecast_sets=4,
    generations=2,
    generation_size=3,
    finalists=2,
    curve_budgets=(1 / 3, 1 / 9, 0.001),
    curve_sets=2,
    head_reductions=("mean_key",),
    cutoff_quantiles=(None,),
)
QUICK = replace(SETTINGS, keep_counts=1, generations=0, curve_budgets=())


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return load_samples(write_samples(folder, 8, 1, "c")), load_samples(write_samples(folder, 6, 2, "e"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


class Log:
    def __init__(self, stop_after=None):
        self.titles, self.totals, self.done, self.stop_after = [], [], [], stop_after

    def start(self, total, title):
        self.titles.append(title)
        self.totals.append(total)
        self.done.append(0)

    def advance(self):
        self.done[-1] += 1
        if self.stop_after is not None and sum(self.done) >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def log():
    return Log()


@pytest.fixture(scope="module")
def found(tiny, sets, store, log) -> Calibration:
    return calibrate(tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS, store=store, progress=log)


def test_everything_meets_the_budget(found):
    for measured in (*found.candidates, *found.selection):
        assert abs(measured.budget - 1 / 3) * 16 <= 1
        assert measured.schedule is None or measured.group_counts == measured.schedule.group_counts(16)
    assert found.num_visual == 16


def test_the_choice_is_the_least_on_the_selection_set(found, sets):
    entries = {item.name: item for item in found.selection}
    assert {"paper", "uniform", "random"} <= set(entries)
    finalists = [item for item in found.selection if item.choices]
    assert found.chosen == min(finalists, key=lambda item: item.kl.mean).name and len(finalists) == 2
    assert found.schedule == replace(
        entries[found.chosen].schedule, model_id="tiny-llava", config_hash=found.schedule.config_hash
    )
    assert all(item.kl.num == len(sets[1]) and item.exact.num == len(sets[1]) for item in found.selection)
    chosen = entries[found.chosen]
    assert entries["uniform"].group_counts == entries["random"].group_counts == chosen.group_counts


def test_finalists_are_the_best_of_all_that_was_tried(found, sets):
    tried = [item.name for item in found.candidates]
    assert {item.name for item in found.selection if item.choices} == set(tried[:2])
    losses = [item.kl.mean for item in found.candidates]
    assert losses == sorted(losses) and losses[0] > 0
    assert all(item.kl.num == len(sets[0]) for item in found.candidates)
    assert [item.generation for item in found.forecasts] == sorted(item.generation for item in found.forecasts)
    assert {item.name: item.measured for item in found.forecasts} == {
        item.name: item.kl.mean for item in found.candidates
    }


def test_the_table_has_what_tells_something(found, sets):
    assert {entry.choice.layer for entry in found.table} == {0, 1, 2, 3}
    assert {entry.kl.num for entry in found.table if entry.survived} == {len(sets[0])}
    observation = found.observation
    for entry in found.table:
        rule = entry.choice.rule
        assert rule.score == "uniform" or observation.tells(entry.choice.layer, rule)
        assert rule.score != "random" and rule.op == "select"


def test_merges_are_tried_behind_a_vision_stage(found):
    merging = [item for item in found.candidates if any(choice.rule.op == "merge" for choice in item.choices)]
    assert merging and all(item.choices[0].layer == 0 for item in merging)
    assert {choice.rule.score for item in merging for choice in item.choices if choice.rule.op == "merge"} == {
        "vision_saliency",
        "k_norm",
    }
    told = {item.name: item.forecast for item in found.forecasts}
    assert all(told[item.name] is None for item in merging), "the table cannot tell what a merge behind a stage loses"


def test_every_other_method_is_held_against_the_chosen_one(found):
    compared = {(item.name, item.measure) for item in found.comparisons}
    others = {item.name for item in found.selection} - {found.chosen}
    assert compared == {(name, measure) for name in others for measure in ("kl", "score")}
    chosen = next(item for item in found.selection if item.name == found.chosen)
    for item in found.comparisons:
        other = next(entry for entry in found.selection if entry.name == item.name)
        if item.measure == "kl":
            assert item.difference == pytest.approx(other.kl.mean - chosen.kl.mean, abs=1e-12)
        assert item.low <= item.difference <= item.high


def test_provenance(found, tiny, sets):
    provenance = found.schedule.provenance
    assert provenance["constraint"] == {"kind": "budget", "value": 1 / 3, "num_visual": 16}
    assert len(provenance["model"]["weights"]) == 64 and provenance["model"]["config"] == tiny.checkpoint.config_hash
    assert provenance["samples"]["selection"]["ids"] == [sample.id for sample in sets[1]]
    assert provenance["forecast"]["kl"] == next(item.forecast for item in found.forecasts if item.name == found.chosen)
    assert provenance["samples"] == found.samples and provenance["seed"] == 3
    assert provenance["measured"]["kl"]["mean"] == next(
        item.kl.mean for item in found.selection if item.name == found.chosen
    )
    assert found.schedule.config_hash == tiny.checkpoint.config_hash
    assert Schedule.from_json(found.schedule.to_json()) == found.schedule


def test_curve(found):
    kinds = {(point.kind, round(point.wanted, 3)) for point in found.curve}
    assert {("chosen", 0.333), ("paper", 0.333), ("uniform", 0.333), ("random", 0.333), ("random", 0.111)} <= kinds
    for point in found.curve:
        assert abs(point.measured.budget - point.wanted) * 16 <= 1
        assert point.loss.mean == pytest.approx(point.measured.kl.mean)
        assert point.loss.low <= point.loss.mean <= point.loss.high
        beaten = [
            other
            for other in found.curve
            if other.measured.budget <= point.measured.budget and other.loss.mean < point.loss.mean
        ]
        assert not (point.on_front and beaten)
    assert 0.001 not in {point.wanted for point in found.curve}, "less than one token"


def test_what_the_scores_tell(found, sets):
    seen = found.observation
    assert seen.num == len(sets[0]) and seen.layers == (0, 1, 2, 3)
    assert [entry["layer"] for entry in seen.k_norm] == [0, 1, 2, 3]
    assert {"mean_key", "mean_norm", "text_query_correlation"} <= set(seen.k_norm[0])


def test_progress_adds_up(found, log):
    assert log.titles[0] == "the model" and "sensitivity" in log.titles
    assert log.done == log.totals


def test_file_round_trip(found, tmp_path):
    text = found.to_json()
    assert Calibration.from_json(text) == found and Calibration.from_json(text).to_json() == text
    assert list(json.loads(text)) == sorted(json.loads(text))
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(InputError, match="c.json"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(InputError, match="schema_version 99"):
        Calibration.from_json(text.replace('"schema_version": 2,\n "seed"', '"schema_version": 99,\n "seed"'))


def test_a_second_run_measures_nothing(found, tiny, sets, store, monkeypatch):
    monkeypatch.setattr(Evaluator, "_measure_batch", lambda *_: pytest.fail("measured again"))
    again = calibrate(tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS, store=store)
    assert again.to_json() == found.to_json()


def test_another_revision_of_an_op_measures_again(found, tiny, sets, store, monkeypatch):
    monkeypatch.setitem(REVISIONS, "ClusterMergePlan", REVISIONS["ClusterMergePlan"] - 1)
    monkeypatch.setattr(Evaluator, "_measure_batch", lambda *_: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        calibrate(tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS, store=store)


def test_interrupted_and_gone_on_with(found, tiny, sets, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        calibrate(
            tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS, store=tmp_path, progress=Log(stop_after=20)
        )
    kept = {file.name for file in tmp_path.iterdir()}
    assert any(name.startswith("unit-") for name in kept) and not any(name.startswith(".") for name in kept)
    broken = next(file for file in tmp_path.iterdir() if file.name.startswith("unit-"))
    broken.write_text("{")
    next(tmp_path.glob("targets-*.safetensors")).write_bytes(b"half")
    again = calibrate(tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS, store=tmp_path)
    assert again.to_json() == found.to_json()


def unnamed(schedule):
    return replace(schedule, model_id="", config_hash="")


def break_logits(monkeypatch, is_broken):
    """Let the pruned model's logits be NaN under the schedules that `is_broken` tells."""

    def forced(runner, *args):
        logits = continue_forced(runner, *args)
        return logits * np.nan if is_broken(runner.schedule) else logits

    monkeypatch.setattr(evaluation, "continue_forced", forced)


def test_a_schedule_that_overflows_never_wins(found, tiny, sets, monkeypatch):
    best = found.schedule
    break_logits(monkeypatch, lambda schedule: schedule == unnamed(best))
    again = calibrate(tiny.checkpoint, *sets, budget=1 / 3, seed=3, settings=SETTINGS)
    assert again.chosen != found.chosen and again.overflowed == (found.chosen,)
    everything = (*again.candidates, *again.selection, *(point.measured for point in again.curve))
    assert all(np.isfinite(item.kl.mean) for item in everything)
    assert unnamed(best) not in {item.schedule for item in everything}
    text = again.to_json()
    assert Calibration.from_json(text) == again and "NaN" not in text and "Infinity" not in text


def test_when_all_overflow(tiny, sets, monkeypatch):
    break_logits(monkeypatch, lambda schedule: True)
    for budget in (1 / 3, 1.0):
        with pytest.raises(InputError, match="every schedule tried are not finite with dtype float32"):
            calibrate(tiny.checkpoint, *sets, budget=budget, settings=SETTINGS)


def test_when_the_original_overflows(tiny, sets, tmp_path):
    folder = shutil.copytree(tiny.folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    norm = next(name for name in tensors if name.endswith("model.norm.weight"))
    save_file({**tensors, norm: tensors[norm] * np.nan}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="sample c.: the unpruned model's logits are not finite"):
        calibrate(Checkpoint.open(folder), *sets, budget=1 / 3, settings=SETTINGS, store=tmp_path / "store")
    assert not list((tmp_path / "store").glob("targets-*"))


def test_the_store_tells_processors_apart(tiny, sets, tmp_path):
    folder, store = shutil.copytree(tiny.folder, tmp_path / "model"), tmp_path / "store"
    settings = QUICK
    first = calibrate(Checkpoint.open(folder), *sets, budget=1 / 3, settings=settings, store=store)
    kept = {file.name for file in store.iterdir()}
    file = next(file for file in folder.glob("*processor_config.json") if "image_mean" in file.read_text())
    data = json.loads(file.read_text())
    (data.get("image_processor") or data)["image_mean"] = [0.1, 0.9, 0.2]
    file.write_text(json.dumps(data))
    second = calibrate(Checkpoint.open(folder), *sets, budget=1 / 3, settings=settings, store=store)
    assert {item.name: item.kl for item in second.selection} != {item.name: item.kl for item in first.selection}
    assert len({file.name for file in store.iterdir()} - kept) >= len(kept) // 2 > 0
    os.utime(folder / "model.safetensors", ns=(1, 1))
    fresh = calibrate(Checkpoint.open(folder), *sets, budget=1 / 3, settings=settings)
    assert fresh.to_json() == second.to_json(), "times of files are for the store's keys alone"


def test_stored_answers_of_other_samples_are_not_taken(tiny, sets, tmp_path):
    settings = QUICK
    first = calibrate(tiny.checkpoint, *sets, budget=1 / 3, settings=settings, store=tmp_path)
    for file in tmp_path.glob("targets-*.safetensors.json"):
        index = json.loads(file.read_text())
        file.write_text(json.dumps({**index, "ids": [f"other {name}" for name in index["ids"]]}))
    again = calibrate(tiny.checkpoint, *sets, budget=1 / 3, settings=settings, store=tmp_path)
    assert again.to_json() == first.to_json()


def test_full_budget_drops_nothing(tiny, sets):
    found = calibrate(tiny.checkpoint, *sets, budget=1.0, settings=SETTINGS)
    assert found.schedule.is_empty and found.chosen == "none" and found.curve == ()
    assert found.selection[0].kl.mean == pytest.approx(0.0, abs=1e-6)
    assert found.selection[0].exact.mean == found.original["exact"]["mean"]


@pytest.mark.parametrize("budget", [0.0, -0.5, 1.2, float("nan"), 0.01])
def test_impossible_budgets(tiny, sets, budget):
    with pytest.raises(InputError, match="budget"):
        calibrate(tiny.checkpoint, *sets, budget=budget, settings=SETTINGS)


@pytest.mark.parametrize("seed", [-1, 2**31, True])
def test_impossible_seeds(tiny, sets, seed):
    with pytest.raises(InputError, match="^seed: expected an integer"):
        calibrate(tiny.checkpoint, *sets, budget=0.5, seed=seed, settings=SETTINGS)


def test_sets_must_be_apart(tiny, sets):
    with pytest.raises(InputError, match="1 samples are in both .* first c0"):
        calibrate(tiny.checkpoint, sets[0], [*sets[1], sets[0][0]], budget=0.5)
    relabelled = replace(sets[0][2], id="new", answers=("blue",), subset="x", digest="0")
    with pytest.raises(InputError, match="1 samples are in both .* first new"):
        calibrate(tiny.checkpoint, sets[0], [*sets[1], relabelled], budget=0.5)
    with pytest.raises(InputError, match="selection set is empty"):
        calibrate(tiny.checkpoint, sets[0], [], budget=0.5)


def test_settings_are_checked():
    for wrong in ({"batch_size": 0}, {"rungs": (0.5,)}, {"rungs": (1.0, 0.5)}, {"max_drops": 0}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))}: must"):
            CalibrationSettings(**wrong)


def test_cost_by_hand():
    shape = DecoderShape(hidden=8, intermediate=12, num_heads=4, num_kv_heads=4, head_dim=2, vocab=10)
    n, d, m = 7, 8, 12
    papers = 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m  # multiply-accumulates of one layer
    assert prefill_cost(shape, [5, 5], 2) == Cost(
        flops=2 * 2 * papers + 2 * 8 * 10, kv_bytes=2 * 7 * 2 * 4 * 2 * 2, input_tokens=5
    )


def test_cost_of_a_config(tiny):
    shape = DecoderShape.from_config(tiny.model.config)
    assert (shape.hidden, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (32, 4, 2, 8)
    full, pruned = (prefill_cost(shape, counts, 8) for counts in ([16] * 4, [16, 4, 4, 4]))
    assert pruned.flops < full.flops and pruned.kv_bytes == full.kv_bytes * (16 + 4 * 3 + 8 * 4) // (24 * 4)


def test_store(tmp_path):
    store, nothing = Store(tmp_path / "new"), Store(None)
    for place in (store, nothing):
        assert place.get("k") is None
        place.put("k", {"a": [1.5, None]})
    assert store.get("k") == {"a": [1.5, None]} and nothing.get("k") is None
    assert key_of(1, {"b": 2, "a": 1}) == key_of(1, {"a": 1, "b": 2}) != key_of(1, {"a": 1, "b": 3})
