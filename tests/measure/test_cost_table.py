"""Measuring a cost table: which probes, which prompts, in which turns; on engines whose times are made up."""

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from twin import build_model, build_samples, write_twin_bundle

from vitcop.calibrate.core.progress import NoProgress
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Prefill
from vitcop.calibrate.schedule.latency import DROP_KINDS, VISION_KINDS, kind_of, prefill_terms, vision_terms
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export import compile as exporting
from vitcop.export.measure import cost_table
from vitcop.export.measure.cost_table import Protocol, measure_cost_table, time_probes
from vitcop.export.measure.probes import fitting_probes, plain_probe, trial_probes
from vitcop.export.measure.prompt_sizes import resized
from vitcop.plugins.errors import InputError

CLASS_TOKEN = ("class_attention", "mean_query", "key_norm", "key_diversity")
CLASS_FREE = CLASS_TOKEN[1:]
QUICK = Protocol(repeats=5, warmup=1, seed=0, settle=0.0)

SECONDS = (
    {f"vision.score.{kind}": 1e-4 for kind in VISION_KINDS}
    | {f"drop.{kind}{unit}": 2e-4 if not unit else 1e-6 for kind in DROP_KINDS for unit in ("", ".token")}
    | {"vision.tower": 5e-3, "vision.projector": 3e-5, "vision.clusters": 4e-4, "prefill.fixed": 2e-3}
    | {"layer.token": 4e-5, "layer.pair": 1e-7, "vision.quantile.pair": 1e-7}
)


def made_up_seconds(terms):
    return sum(SECONDS.get(name, 0.0) * factor for name, factor in terms.items())


class Clock:
    """The machine: its speed changes as it is used, and engines are opened and closed on it."""

    def __init__(self, drift=0.0):
        self.drift, self.runs, self.open, self.most_open = drift, 0, 0, 0

    @property
    def slowness(self):
        """Up to 1 + drift and back, over many runs."""
        return 1 + self.drift * (1 - math.cos(self.runs / 60)) / 2


class MadeUpRunner:
    """An engine that takes the made-up seconds for whatever it is given."""

    name, dtype = "made-up", "float32"

    def __init__(self, schedule, clock):
        self.schedule, self.clock, self.prompts = schedule, clock, []

    def prefill(self, batch):
        self.clock.runs += 1
        visual, text = batch.num_visual, batch.input_ids.shape[1] - batch.num_visual
        self.prompts.append((visual, text))
        seconds = {
            "vision": made_up_seconds(vision_terms(self.schedule, visual, 1.0)) * self.clock.slowness,
            "prefill": made_up_seconds(prefill_terms(self.schedule, visual, text, ())) * self.clock.slowness,
        }
        return Prefill(logits=np.zeros((1, 1), np.float32), state=None, seconds=seconds)


def make_batch(visual=16, text=6, axes=1):
    """One prompt; its position ids have 1 or 4 columns."""
    length = visual + text
    ids = np.array([[9, 8, *[4] * visual, *range(20, 20 + text - 2)]])
    positions = np.arange(length)[None]
    if axes == 4:
        positions = np.repeat(positions[..., None], 4, axis=2)
        positions[0, :, 1:] += 100  # rotary positions run ahead of the order
    return PromptBatch(
        input_ids=ids,
        attention_mask=np.ones_like(ids),
        position_ids=positions,
        visual_index=np.arange(2, 2 + visual)[None],
        vision_inputs={"pixel_values": np.zeros((16, 3, 4, 4)), "visual_rows": np.arange(visual)[None]},
    )


class TestPrompts:
    @pytest.mark.parametrize("axes", [1, 4])
    def test_shorter_and_longer(self, axes):
        batch = make_batch(axes=axes)
        found = resized(batch, 5, 3, {"visual_rows"})
        assert found.num_visual == 5 and found.input_ids.tolist() == [[9, 8, 4, 4, 4, 4, 4, 20, 21, 22, 23, 23, 23, 23]]
        assert found.attention_mask.shape == found.input_ids.shape and found.attention_mask.all()
        assert found.visual_index.tolist() == [[2, 3, 4, 5, 6]]
        # The tower sees what it saw; tables of tokens have an entry for each that is left.
        assert found.vision_inputs["pixel_values"] is batch.vision_inputs["pixel_values"]
        assert found.vision_inputs["visual_rows"].tolist() == [[0, 1, 2, 3, 4]]
        # Places go on from the full prompt of 22.
        assert found.places.tolist() == [[0, 1, 2, 3, 4, 5, 6, 18, 19, 20, 21, 22, 23, 24]]
        if axes == 4:
            assert found.position_ids[0, -1].tolist() == [24, 124, 124, 124]

    def test_its_own_size_is_the_prompt_itself(self):
        batch = make_batch()
        found = resized(batch, 16, 0, {"visual_rows"})
        for name in ("input_ids", "attention_mask", "position_ids", "visual_index"):
            np.testing.assert_array_equal(getattr(found, name), getattr(batch, name))


class TestProbes:
    @pytest.mark.parametrize("layers", [2, 3, 8, 32])
    @pytest.mark.parametrize("scores", [CLASS_TOKEN, CLASS_FREE], ids=["class token", "class free"])
    def test_together_they_have_every_kind(self, layers, scores):
        probes = fitting_probes(layers, 144, scores)
        assert len({probe.name for probe in probes}) == len(probes) == 6
        stages = {kind_of(probe.schedule.vision.score) for probe in probes}
        assert stages == {*scores, "control"}
        drops = [drop for probe in probes for drop in probe.schedule.drops]
        kinds = {kind_of(drop.score) for drop in drops} | {drop.op for drop in drops if drop.op == "merge"}
        assert kinds == set(DROP_KINDS)
        cutoffs = [probe.schedule.vision.clusters for probe in probes if probe.schedule.vision.clusters]
        assert {clusters.cutoff_quantile is None for clusters in cutoffs} == {True, False}

    @pytest.mark.parametrize("visual", [16, 100, 576])
    def test_no_graph_is_left_with_one_token(self, visual):
        probes = [plain_probe(6, visual), *fitting_probes(6, visual, CLASS_TOKEN)]
        probes += trial_probes(6, visual, CLASS_TOKEN, count=20, seed=3)
        for probe in probes:
            assert probe.sizes
            for size, more_text in probe.sizes:
                assert 2 <= min(probe.schedule.group_counts(size)) <= size <= visual and 0 <= more_text <= visual // 4

    def test_trials_are_drawn_by_their_seed(self):
        first, again, other = (trial_probes(8, 144, CLASS_TOKEN, count=12, seed=seed) for seed in (1, 1, 2))
        assert first == again and len(first) == 12
        names = Counter(probe.name for probe in [*first, *other])
        assert len(names) > 20
        assert not set(names) & {probe.name for probe in fitting_probes(8, 144, CLASS_TOKEN)}
        depths = {len(probe.schedule.drops) for probe in first}
        assert depths == {1, 2, 3} and {probe.schedule.vision is None for probe in first} == {True, False}

    def test_a_model_of_one_layer_has_no_place_for_drops(self):
        probes = [*fitting_probes(1, 64, CLASS_TOKEN), *trial_probes(1, 64, CLASS_TOKEN, count=2, seed=0)]
        assert probes and not any(probe.schedule.drops for probe in probes)


class TestTurns:
    def timed(self, clock, count=8):
        plain, probes = plain_probe(8, 144), fitting_probes(8, 144, CLASS_TOKEN)
        probes += trial_probes(8, 144, CLASS_TOKEN, count=count, seed=0)
        self.runners = []

        @contextmanager
        def open_probe(probe):
            clock.open += 1
            clock.most_open = max(clock.most_open, clock.open)
            self.runners.append(MadeUpRunner(probe.schedule, clock))
            yield self.runners[-1]
            clock.open -= 1

        batch = make_batch(144, 20)
        found = time_probes(
            plain, probes, open_probe, lambda size: resized(batch, *size, {"visual_rows"}), QUICK, NoProgress()
        )
        return [plain, *probes], found

    def test_every_probe_at_every_size_in_every_turn(self):
        clock = Clock()
        probes, found = self.timed(clock)
        assert clock.open == 0 and clock.most_open == 2
        for probe, runner in zip(probes[1:], self.runners[1:], strict=True):
            sizes = [(visual, 20 + more) for visual, more in probe.sizes]
            assert Counter(runner.prompts) == dict.fromkeys(sizes, 6)
            assert [(point.num_visual, point.text_tokens) for point in found[probe.name]] == sizes
        # Between its own prompts the unpruned engine ran the yardstick once in each turn of each probe.
        assert Counter(self.runners[0].prompts)[144, 20] == 6 + 6 * len(probes)

    def test_a_machine_that_slows_down_passes_for_no_slow_probe(self):
        _, steady = self.timed(Clock())
        _, drifting = self.timed(Clock(drift=1.5))
        exact = {name: [point.prefill for point in points] for name, points in steady.items()}
        unit = exact["none"][0] / drifting["none"][0].prefill
        worst = max(
            abs(point.prefill * unit / known - 1)
            for name, points in drifting.items()
            for point, known in zip(points, exact[name], strict=True)
        )
        assert worst < 0.15  # by itself the machine would have been 150 % off

    def test_a_runner_that_tells_no_parts(self):
        class Silent(MadeUpRunner):
            def prefill(self, batch):
                return replace(super().prefill(batch), seconds={})

        @contextmanager
        def open_probe(probe):
            yield Silent(probe.schedule, Clock())

        with pytest.raises(InputError, match="made-up does not tell the time of vision tower and prefill apart"):
            time_probes(plain_probe(2, 16), [], open_probe, lambda size: make_batch(*size), QUICK, NoProgress())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("cost") / "model")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples(build_samples(tmp_path_factory.mktemp("samples")))


@pytest.fixture(scope="module")
def bundle(model_dir):
    return write_twin_bundle(model_dir.parent / "bundle", model_dir, Schedule(num_layers=4))


@pytest.fixture
def engine(monkeypatch):
    """A target of made-up times; exports write bundles without graphs. Gives what was exported and built."""
    clock, done = Clock(), {"exported": [], "built": []}

    class Target:
        name = "made-up"

        def build(self, bundle, options=None):
            done["built"].append(bundle.schedule)

        def runner(self, bundle, options=None):
            return MadeUpRunner(bundle.schedule, clock)

    def export(model_dir, schedule, out, *, copy_weights, captures):
        done["exported"].append((schedule, copy_weights))
        return write_twin_bundle(out, model_dir, schedule, copy_weights=copy_weights).path

    monkeypatch.setattr(cost_table, "open_target", lambda _name: Target())
    monkeypatch.setattr(cost_table, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(exporting, "export_bundle", export)
    return done


class TestTheWholeTable:
    def test_forecasts_of_schedules_that_were_not_fitted_on(self, bundle, samples, engine):
        table = measure_cost_table(bundle, samples, target="made-up", trials=5, repeats=2, warmup=0)
        assert table.config_hash == bundle.manifest.config_hash and table.num_layers == 4
        assert table.visual_tokens == 16 and table.text_tokens > 4 and table.rows == 1 and table.dtype == "float32"
        assert len(table.trials) == 5 and table.worst_error < 0.03 and max(table.fit_errors) < 0.01
        # The bundle drops nothing, so it is the yardstick itself; the others are exported once each.
        assert len(engine["exported"]) == 6 + 5 and not any(copied for _, copied in engine["exported"])
        assert not engine["built"]
        again = measure_cost_table(bundle, samples, target="made-up", trials=5, repeats=2, warmup=0)
        assert again.to_json() == table.to_json()

    def test_a_bundle_that_drops_and_a_target_that_builds(self, model_dir, samples, engine, tmp_path, monkeypatch):
        bundle = write_twin_bundle(tmp_path / "pruned", model_dir, copy_weights=True)
        monkeypatch.setattr(cost_table, "NEEDS_BUILDING", ("made-up",))
        settings = {"target": "made-up", "trials": 0, "repeats": 1, "warmup": 0}
        table = measure_cost_table(bundle, samples, model_dir=model_dir, **settings)
        assert table.trials == () and table.median_error is None
        # Probes are like the bundle: with a copy of the weights. Every engine is built first, the unpruned one as well.
        assert all(copied for _, copied in engine["exported"])
        assert engine["built"] == [schedule for schedule, _ in engine["exported"]] and len(engine["built"]) == 7
        assert engine["built"][0].is_empty

    def test_a_given_unpruned_bundle_saves_an_export(self, model_dir, bundle, samples, engine, tmp_path):
        pruned = write_twin_bundle(tmp_path / "pruned", model_dir)
        settings = {"target": "made-up", "trials": 0, "repeats": 1, "warmup": 0}
        measure_cost_table(pruned, samples, unpruned=bundle, **settings)
        assert len(engine["exported"]) == 6
        with pytest.raises(InputError, match="its schedule drops tokens"):
            measure_cost_table(bundle, samples, unpruned=pruned, **settings)

    @pytest.mark.parametrize("wrong", [{"repeats": 0}, {"batch_size": 0}, {"warmup": -1}, {"trials": -1}])
    def test_impossible_settings(self, bundle, samples, wrong):
        with pytest.raises(InputError, match="a cost table needs"):
            measure_cost_table(bundle, samples, **wrong)

    @pytest.mark.parametrize(
        ("target", "said"), [("tensorrt-llm", "packages a bundle for another program"), ("openvino", "is not known")]
    )
    def test_a_target_that_runs_nothing(self, bundle, samples, target, said):
        with pytest.raises(InputError, match=said):
            measure_cost_table(bundle, samples, target=target)

    def test_an_image_of_hardly_any_tokens(self, bundle, samples, engine, monkeypatch):
        monkeypatch.setattr(cost_table, "one_batch", lambda *_: make_batch(visual=15))
        with pytest.raises(InputError, match="15 visual tokens, a cost table needs 16"):
            measure_cost_table(bundle, samples, target="made-up")

    def test_a_model_folder_of_another_model(self, bundle, samples, engine, tmp_path):
        from tiny_models import build_tiny_llava

        other = build_tiny_llava(tmp_path / "other", layers=3)
        with pytest.raises(InputError, match="not the model of this bundle"):
            measure_cost_table(bundle, samples, target="made-up", model_dir=other)
