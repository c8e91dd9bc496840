"""What a search may be held to beside a budget, and the input that it refuses or puts up with."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_samples import write_samples
from PIL import Image

from vitcop.calibrate.data.samples import digested, load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost
from vitcop.calibrate.schedule.latency import BASE, DROP_KINDS, VISION_KINDS, CostTable
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.search.calibrating import calibrate, measure_shard
from vitcop.calibrate.search.constraints import Constraint
from vitcop.calibrate.stats.subset_limits import SubsetLimit
from vitcop.calibrate.work.shards import Shard, merge
from vitcop.pipeline.console import Console
from vitcop.pipeline.settings import SearchSettings
from vitcop.pipeline.steps.calibrate import Search
from vitcop.plugins.errors import InputError

SETTINGS = CalibrationSettings(
    batch_size=4,
    max_new_tokens=2,
    keep_counts=2,
    forecast_sets=3,
    generations=1,
    generation_size=2,
    finalists=2,
    curve_budgets=(),
    head_reductions=("mean_key",),
    cutoff_quantiles=(None,),
)
UNPRUNED = Schedule(num_layers=4)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return load_samples(write_samples(folder, 8, 1, "c")), load_samples(write_samples(folder, 6, 2, "e"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The table serves all constraints, so one store does for all tests."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(tiny, sets, store):
    def search(**how):
        return calibrate(tiny.checkpoint, *sets, settings=SETTINGS, store=store, **how)

    return search


def cost_table(tiny, **changes) -> CostTable:
    """Every visual token of a layer takes a millisecond, every drop 10 ms, whatever it is; all else takes nothing."""
    names = [*BASE, "vision.clusters", "vision.clusters.pair", "vision.quantile.pair"]
    names += [f"vision.score.{kind}" for kind in VISION_KINDS]
    names += [f"drop.{kind}{unit}" for kind in DROP_KINDS for unit in ("", ".token", ".pair")]
    coefficients = dict.fromkeys(names, 0.0) | {"layer.token": 1e-3}
    coefficients |= {f"drop.{kind}": 0.01 for kind in DROP_KINDS}
    facts = {
        "model_id": "tiny-llava",
        "config_hash": tiny.checkpoint.config_hash,
        "num_layers": 4,
        "target": "onnxruntime",
        "options": {},
        "dtype": "float32",
        "rows": 1,
        "visual_tokens": 16,
        "text_tokens": 8,
        "machine": {},
        "settings": {},
        "coefficients": coefficients,
        "fit_errors": (),
        "trials": (),
    }
    return CostTable(**facts | changes)


@pytest.mark.parametrize("kind", ["flops", "kv_bytes"])
def test_costs_by_formula_are_kept(found, tiny, kind):
    shape = DecoderShape.from_config(tiny.model.config)
    text = found(budget=1 / 2).text_tokens
    whole = getattr(prefill_cost(shape, UNPRUNED.layer_counts(16), text), kind)
    least = getattr(prefill_cost(shape, [1] * 4, text), kind)
    limit = least + 0.4 * (whole - least)
    result = found(constraint=Constraint(kind=kind, value=limit))
    chosen = next(item for item in result.selection if item.name == result.chosen)
    assert 0.8 * limit <= chosen.cost[kind] <= limit
    assert all(item.cost[kind] <= limit for item in result.candidates)
    assert result.constraint == {"kind": kind, "value": limit} and result.budget == chosen.budget
    with pytest.raises(InputError, match=f"{kind} .* the nearest that can be met is"):
        found(constraint=Constraint(kind=kind, value=0.5 * least))


def test_measured_time_is_kept(found, tiny):
    table = cost_table(tiny)
    result = found(constraint=Constraint(kind="latency_ms", value=60.0), cost_table=table)
    seconds = result.schedule.provenance["forecast"]["seconds"]
    assert seconds == table.seconds(result.schedule, 16, result.text_tokens) <= 0.060 + 1e-9
    assert all(table.seconds(item.schedule, 16, result.text_tokens) <= 0.060 + 1e-9 for item in result.candidates)
    with pytest.raises(InputError, match="needs measured times; make them with `vitcop bench --cost-table`"):
        found(constraint=Constraint(kind="latency_ms", value=60.0))
    with pytest.raises(InputError, match="cost table is of model 'tiny-llava'"):
        found(constraint=Constraint(kind="latency_ms", value=60.0), cost_table=replace(table, config_hash="0" * 64))


def test_a_greatest_loss_is_kept_at_the_least_cost(found):
    near, far = (found(constraint=Constraint(kind="max_loss", value=value)) for value in (0.02, 0.5))
    for result, limit in ((near, 0.02), (far, 0.5)):
        chosen = next(item for item in result.selection if item.name == result.chosen)
        assert chosen.kl.mean <= limit
        kept = [item for item in result.selection if item.choices and item.kl.mean <= limit]
        assert chosen.cost["flops"] == min(item.cost["flops"] for item in [chosen, *kept])
    assert far.budget < near.budget


def test_limits_on_subsets(found, tiny, sets, store):
    marked = [digested(replace(sample, subset="red" if i % 2 else "blue")) for i, sample in enumerate(sets[1])]

    def search(*limits):
        return calibrate(tiny.checkpoint, sets[0], marked, budget=1 / 4, settings=SETTINGS, store=store, limits=limits)

    free = search()
    assert free.violations == {}
    finalists = [item for item in free.selection if item.choices]
    with pytest.raises(InputError, match="no finalist keeps the limits on subsets: the best, .*, breaks red: kl"):
        search(SubsetLimit(subset="red", max_drop=0.0, measure="kl"))
    kept = search(SubsetLimit(subset="red", max_drop=1e6, measure="kl"))
    assert kept.chosen == free.chosen and len(finalists) == 2
    with pytest.raises(InputError, match="no sample of it has a score; there are blue, red"):
        search(SubsetLimit(subset="green", max_drop=0.1))


def test_samples_without_answers_have_no_score(tiny, sets):
    bare = [[digested(replace(sample, answers=())) for sample in samples] for samples in sets]
    found = calibrate(tiny.checkpoint, *bare, budget=1 / 2, settings=SETTINGS)
    assert found.original["score"] is None and all(item.score is None for item in found.selection)
    assert {item.measure for item in found.comparisons} == {"kl"} and not found.schedule.is_empty


def test_prompts_of_text_alone_beside_images(tiny, sets, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f'{{"id": "t{i}", "images": [], "prompt": "what is it {i}?"}}\n' for i in range(2)))
    mixed = [*sets[0], *load_samples(path)]
    found = calibrate(tiny.checkpoint, mixed, sets[1], budget=1 / 2, settings=SETTINGS)
    assert found.num_visual == 16 and found.samples["calibration"]["num"] == 10
    with pytest.raises(InputError, match="no calibration sample has an image or a video"):
        calibrate(tiny.checkpoint, load_samples(path), sets[1], budget=1 / 2, settings=SETTINGS)


def test_prompts_of_different_numbers_of_visual_tokens(tiny, sets, tmp_path):
    folder = sets[0][0].images[0].parent
    path = tmp_path / "pairs.jsonl"
    images = [str(folder / f"c{i}.png") for i in range(4)]
    rows = [{"id": f"p{i}", "images": images[i : i + 2], "prompt": "same?", "answer": "no"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = calibrate(tiny.checkpoint, [*sets[0], *load_samples(path)], sets[1], budget=1 / 2, settings=SETTINGS)
    assert found.num_visual == 16, "the commonest"
    assert all(item.kl.num == 11 for item in found.candidates)
    assert abs(found.schedule.budget(32) - 1 / 2) * 32 <= 2, "fractions serve twice the tokens too"


def test_shards_join_to_the_table_of_one_machine(found, tiny, sets, tmp_path):
    whole = found(budget=1 / 2)
    tables = [
        measure_shard(tiny.checkpoint, *sets, Shard(i, 2), settings=SETTINGS, store=tmp_path / str(i)) for i in (1, 2)
    ]
    with pytest.raises(InputError, match="shards 2/2 are missing"):
        found(budget=1 / 2, merged=tables[0])
    fresh = tmp_path / "fresh"
    joined = calibrate(
        tiny.checkpoint, *sets, budget=1 / 2, settings=SETTINGS, store=fresh, merged=merge([*tables, tables[0]])
    )
    assert joined.to_json() == whole.to_json()
    other = measure_shard(tiny.checkpoint, *sets, Shard(2, 2), seed=7, settings=SETTINGS, store=tmp_path / "o")
    with pytest.raises(InputError, match="different runs: seed is"):
        merge([tables[0], other])


def test_a_bad_sample_is_named_and_may_be_left_out(tmp_path):
    path = write_samples(tmp_path, 3, 5, "b")
    (tmp_path / "b1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="sample b1"):
        load_samples(path)
    bad: list[str] = []
    kept = load_samples(path, bad=bad)
    assert [sample.id for sample in kept] == ["b0", "b2"] and len(bad) == 1 and "sample b1" in bad[0]
    for name in ("b0", "b2"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(InputError, match="no samples in it that can be used"):
        load_samples(path, bad=[])
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "b1.png")
    assert [sample.id for sample in load_samples(path, bad=[])] == ["b1"]


def broken_at(monkeypatch, name: str) -> None:
    """Let the original fail at one sample, whatever is beside it."""
    check = Evaluator._check_original

    def checked(self, targets):
        if name in targets:
            raise InputError(f"sample {name}: broken")
        check(self, targets)

    monkeypatch.setattr(Evaluator, "_check_original", checked)


def test_a_sample_that_always_fails_is_named_and_may_be_left_out(tiny, sets, tmp_path, monkeypatch):
    broken_at(monkeypatch, "c3")
    with pytest.raises(InputError, match="^sample c3: broken; --skip-bad leaves such samples out$"):
        calibrate(tiny.checkpoint, *sets, budget=1 / 2, settings=SETTINGS, store=tmp_path)
    search = Search(
        checkpoint=tiny.checkpoint,
        calibration_samples=list(sets[0]),
        selection_samples=list(sets[1]),
        settings=SearchSettings(budget=1 / 2, skip_bad=True, search=SETTINGS),
    )
    schedule = search.run(schedule_out=None, calibration_out=None, store=tmp_path, console=Console(quiet=True))
    assert schedule.provenance["samples"]["calibration"]["ids"] == [s.id for s in sets[0] if s.id != "c3"]
