"""What `verify` says about engines that are right, wrong in their weights, or wrong in what they keep."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from twin import SCHEDULE, TwinTarget, build_model, build_samples, write_twin_bundle

from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Bundle
from vitcop.export.measure import Gates, bench, latency, rungs, verify
from vitcop.export.measure.gates import layer_gate, score_loss_gate
from vitcop.pipeline.reporting.timing import bench_settings
from vitcop.pipeline.steps.bench import bench_table
from vitcop.plugins.errors import GateError, InputError

SETTINGS = {"batch_size": 3, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("twin") / "model")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples(build_samples(tmp_path_factory.mktemp("samples")))


@pytest.fixture(scope="module")
def bundle(model_dir):
    return write_twin_bundle(model_dir.parent / "bundle", model_dir)


@pytest.fixture
def use_engine(monkeypatch):
    def use(schedule=None, change=None):
        for module in (rungs, latency):
            monkeypatch.setattr(module, "open_target", lambda _name: TwinTarget(schedule, change))

    use()
    return use


@pytest.fixture(scope="module")
def sound(model_dir, samples, bundle):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rungs, "open_target", lambda _name: TwinTarget())
        return verify(bundle, samples, target="twin", **SETTINGS)


def gate(verification, name):
    return next(gate for gate in verification.gates if gate.name == name)


class TestASoundEngine:
    def test_it_passes_every_gate(self, sound, samples):
        assert sound.passed and sound.failed_gates == ()
        sound.check()
        assert sound.summary() == f"PASSED: 6 gates on {len(samples)} samples, engine twin"
        assert gate(sound, "logit_deviation").value == 0 and gate(sound, "logit_deviation").limit == 1e-4
        assert gate(sound, "layer_deviation").value == 0 and gate(sound, "layer_deviation").limit == 1e-3
        assert gate(sound, "weights_changed").passed and gate(sound, "weights_changed").note == ""

    def test_a_small_sample_judges_no_score(self, sound):
        found = gate(sound, "score_loss")
        assert found.passed is None and found.note.startswith("not judged: 4 groups") and found.limit == 0.05

    def test_the_two_losses_are_apart(self, sound):
        assert sound.export_loss["logit_kl_max"] == 0 and sound.export_loss["prefix_share"] == 1
        assert sound.export_loss["layer_deviations"] == [0.0] * 4
        assert all(value > 0 for value in sound.export_loss["layer_magnitudes"])
        assert sound.export_loss["kept_agreement"] == {"vision": 1.0, "drop_0": 1.0, "drop_1": 1.0}
        assert sound.schedule_loss["logit_kl_mean"] > 0 and sound.schedule_loss["logit_deviation_max"] > 1e-3

    def test_a_row_for_each_sample_in_order(self, sound, samples):
        assert [row["id"] for row in sound.rows] == [sample.id for sample in samples]
        for row in sound.rows:
            assert set(row["answers"]) == set(row["scores"]) == {"original", "pruned", "engine", "random", "uniform"}
            assert row["stages"] == ["same"] * 3
            assert row["answers"]["engine"] == row["answers"]["pruned"]

    def test_scores_by_subset_with_intervals_and_controls(self, sound):
        assert set(sound.scores["subsets"]) == {"a", "b"} and sound.scores["all"]["count"] == 8
        assert set(sound.scores["all"]["differences"]) == {
            "schedule_loss",
            "export_loss",
            "gain_over_random",
            "gain_over_uniform",
        }
        assert sound.scores["all"]["differences"]["export_loss"]["mean"] == 0

    def test_json_is_reproducible_and_holds_no_paths(self, sound, samples, bundle, use_engine):
        text = sound.to_json()
        assert json.loads(text) == json.loads(json.dumps(sound.to_dict()))
        assert str(bundle.path.parent) not in text
        assert verify(bundle, samples, target="twin", **SETTINGS).to_json() == text

    def test_the_batch_size_changes_nothing_that_is_gated(self, sound, samples, bundle, use_engine):
        one = verify(bundle, samples, target="twin", controls=False, **SETTINGS | {"batch_size": 1})
        assert one.passed
        assert [row["answers"]["engine"] for row in one.rows] == [row["answers"]["engine"] for row in sound.rows]
        assert set(one.rows[0]["answers"]) == {"original", "pruned", "engine"}


class TestAWrongEngine:
    def test_weights_that_are_one_percent_off(self, samples, bundle, use_engine):
        def scale(model):
            for parameter in model.parameters():
                parameter.data *= 1.01

        use_engine(change=scale)
        found = verify(bundle, samples, target="twin", controls=False, **SETTINGS)
        assert not found.passed and not gate(found, "logit_deviation").passed
        assert not gate(found, "layer_deviation").passed and gate(found, "weights_changed").passed
        assert found.summary().startswith("FAILED: logit_deviation")
        with pytest.raises(GateError, match="FAILED"):
            found.check()

    def test_a_bundle_whose_own_copy_of_the_weights_was_changed(self, samples, model_dir, tmp_path, use_engine):
        bundle = write_twin_bundle(tmp_path / "b", model_dir, copy_weights=True)
        with pytest.raises(InputError, match="--model"):
            verify(bundle, samples, target="twin", **SETTINGS)
        assert verify(bundle, samples, target="twin", model_dir=model_dir, controls=False, **SETTINGS).passed
        shard = bundle.path / "model.safetensors"
        save_file({name: np.float32(1.01) * value for name, value in load_file(shard).items()}, shard, {"format": "pt"})
        with pytest.raises(InputError, match="changed since the export"):
            Bundle.open(bundle.path)
        opened = Bundle.open(bundle.path, check_weights="size")
        found = verify(opened, samples, target="twin", model_dir=model_dir, controls=False, **SETTINGS)
        assert not found.passed and not gate(found, "logit_deviation").passed
        assert gate(found, "weights_changed").passed is False
        assert gate(found, "weights_changed").note == "weights changed since export: model.safetensors"

    def test_referenced_weights_changed_in_place(self, samples, model_dir, tmp_path, use_engine):
        """Engine and PyTorch read the same new weights and agree, so only the hash can tell."""
        model = shutil.copytree(model_dir, tmp_path / "model")
        bundle = write_twin_bundle(tmp_path / "b", model)
        shard = model / "model.safetensors"
        save_file({name: np.float32(1.01) * value for name, value in load_file(shard).items()}, shard, {"format": "pt"})
        opened = Bundle.open(bundle.path, check_weights="size")
        found = verify(opened, samples, target="twin", controls=False, **SETTINGS)
        assert [failed.name for failed in found.failed_gates] == ["weights_changed"]
        assert found.summary().startswith("FAILED: weights_changed 1 (limit 0)")

    def test_other_tokens_kept(self, samples, bundle, use_engine):
        drops = (dataclasses.replace(SCHEDULE.drops[0], order="largest"), SCHEDULE.drops[1])
        use_engine(dataclasses.replace(SCHEDULE, drops=drops))
        found = verify(bundle, samples, target="twin", controls=False, **SETTINGS)
        assert gate(found, "kept_differing").value == len(samples)
        assert all(row["stages"] == ["same", "different"] for row in found.to_dict()["rows"])
        assert found.export_loss["kept_agreement"]["drop_0"] < 1 and found.export_loss["kept_agreement"]["vision"] == 1

    def test_a_nan_passes_no_gate_and_stays_json(self, samples, bundle, use_engine):
        def spoil(model):
            model.lm_head.weight.data[3] = float("nan")

        use_engine(change=spoil)
        found = verify(bundle, samples, target="twin", controls=False, **SETTINGS)
        assert not gate(found, "logit_deviation").passed
        assert next(g for g in json.loads(found.to_json())["gates"] if g["name"] == "logit_deviation")["value"] is None

    def test_a_nan_in_the_cache_fails_even_a_gate_that_is_off(self, samples, bundle, use_engine):
        def spoil(model):
            model.model.language_model.layers[3].self_attn.v_proj.weight.data[0] = float("nan")

        use_engine(change=spoil)
        found = verify(bundle, samples, target="twin", controls=False, gates={"layer_deviation": None}, **SETTINGS)
        assert gate(found, "layer_deviation").passed is False


class TestBaseline:
    def run(self, bundle, samples, baseline):
        return verify(bundle, samples, target="twin", controls=False, baseline=baseline, **SETTINGS)

    def test_itself(self, sound, samples, bundle, use_engine):
        found = self.run(bundle, samples, json.loads(sound.to_json()))
        assert found.passed
        assert {g.name for g in found.gates if g.name.startswith("baseline")} == {
            "baseline: score",
            "baseline: same answer as the original",
        }

    def test_a_better_one(self, sound, samples, bundle, use_engine):
        better = copy.deepcopy(sound.to_dict())
        for row in better["rows"]:
            row["scores"]["engine"] = 1.0
            row["same_as_original"]["engine"] = True
        found = self.run(bundle, samples, better)
        assert not found.passed and not gate(found, "baseline: score").passed

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda data: data["samples"].update(digest="0"), "other samples"),
            (lambda data: data["settings"].update(metric="anls"), "metric"),
            (lambda data: data["settings"].update(max_new_tokens=5), "max_new_tokens"),
            (lambda data: data.pop("rows"), "not the verify.json"),
            (lambda data: [row.pop("same_as_original") for row in data["rows"]], "not the verify.json"),
        ],
    )
    def test_one_that_does_not_fit(self, sound, samples, bundle, use_engine, change, words):
        data = copy.deepcopy(sound.to_dict())
        change(data)
        with pytest.raises(InputError, match=words):
            self.run(bundle, samples, data)


class TestInput:
    def test_another_model(self, samples, bundle, model_dir, tmp_path, use_engine):
        other = tmp_path / "other"
        other.mkdir()
        for path in model_dir.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        config = json.loads((other / "config.json").read_text())
        config["text_config"]["rms_norm_eps"] = 1e-3
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="not the model of this bundle"):
            verify(bundle, samples, target="twin", model_dir=other, **SETTINGS)

    def test_no_samples_and_unknown_names(self, samples, bundle, use_engine):
        with pytest.raises(InputError, match="no samples"):
            verify(bundle, [], target="twin")
        with pytest.raises(InputError, match="bleu"):
            verify(bundle, samples, target="twin", metric="bleu")
        with pytest.raises(InputError, match="'speed'"):
            verify(bundle, samples, target="twin", gates={"speed": 1})

    def test_an_unknown_target(self, samples, bundle):
        with pytest.raises(InputError, match="available"):
            verify(bundle, samples, target="openvino")


class TestGates:
    @pytest.mark.parametrize("value", [-1, "auto", float("nan"), True])
    def test_impossible_limits(self, value):
        with pytest.raises(InputError, match="near_tie_share"):
            Gates(near_tie_share=value)

    def test_a_switched_off_gate_is_listed_and_holds_nothing(self, sound, samples, bundle, use_engine):
        found = verify(bundle, samples, target="twin", controls=False, gates={"score_loss": None}, **SETTINGS)
        assert gate(found, "score_loss").passed is None and gate(found, "score_loss").note == "switched off"
        assert found.passed

    def test_limits_by_float_type(self):
        assert Gates().logit_limit("float32") == 1e-4 < Gates().logit_limit("float16")
        assert Gates.of({"logit_deviation": 0.5}).logit_limit("float32") == 0.5
        assert [Gates().layer_limit(dtype) for dtype in ("float32", "float16")] == [1e-3, 5e-2]
        assert Gates.of({"layer_deviation": 0.5}).layer_limit("float16") == 0.5

    def test_keys_and_values(self):
        assert layer_gate(1e-4, 1e-3).passed and not layer_gate(1e-2, 1e-3).passed
        assert layer_gate(None, 1e-3).passed is None and layer_gate(1e-2, None).passed is None
        assert layer_gate(float("inf"), None).passed is False and layer_gate(float("nan"), 1.0).passed is False

    def test_a_loss_of_score_is_judged_from_twenty_images(self):
        loss = {"mean": 1.0, "low": 1.0, "high": 1.0}
        assert score_loss_gate(loss, 0.05, 19).passed is None and score_loss_gate(loss, 0.05, 20).passed is False
        assert score_loss_gate(loss, None, 1).note == "switched off"

    def test_samples_without_answers_hold_no_score(self, samples, bundle, use_engine):
        bare = [dataclasses.replace(sample, answers=()) for sample in samples]
        found = verify(bundle, bare, target="twin", controls=False, **SETTINGS)
        assert found.passed and found.scores == {} and gate(found, "score_loss").passed is None


class TestBench:
    def test_it_tells_the_parts_apart(self, samples, bundle, model_dir, use_engine):
        whole = write_twin_bundle(model_dir.parent / "whole", model_dir, Schedule(num_layers=4))
        found = bench(
            bundle, samples, target="twin", batch_size=2, warmup=1, repeats=3, max_new_tokens=2, unpruned=whole
        )
        data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert set(data["rungs"]) == {"engine", "engine_unpruned", "torch_pruned", "torch_original"}
        engine = data["rungs"]["engine"]
        assert set(engine["seconds"]) == {"vision", "selector", "prefill", "decode_per_token", "total"}
        assert all(0 < t["low"] <= t["median"] <= t["high"] for t in engine["seconds"].values())
        assert engine["kv_bytes"] < data["rungs"]["engine_unpruned"]["kv_bytes"]
        assert len(engine["kv_lengths"]) == 3 and data["batch"]["visual_tokens"] == 16 and data["batch"]["rows"] == 2
        assert set(data["ratios"]) == {"engine_unpruned", "torch_pruned", "torch_original"}
        # Its vision tower runs inside its forward, so neither part can be compared.
        assert set(data["ratios"]["torch_original"]) == {"decode_per_token", "total"}
        assert set(data["ratios"]["torch_pruned"]) == {"vision", "prefill", "decode_per_token", "total"}
        assert data["machine"]["cores"] >= 1 and "torch" in data["machine"]["versions"]
        assert found.summary().count("\n") == 7

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_torch_computes_as_the_engine_does(self, samples, bundle, use_engine, monkeypatch, dtype):
        """An engine may compute in another type than its bundle: fp32 graphs built in half precision."""
        name, models = str(dtype).removeprefix("torch."), []
        monkeypatch.setattr(TwinTarget, "dtype", name)
        run_once = latency._run_once

        def watched(runner, batch, new_tokens):
            models.append(runner.model)
            return run_once(runner, batch, new_tokens)

        monkeypatch.setattr(latency, "_run_once", watched)
        found = bench(bundle, samples, target="twin", repeats=1, warmup=0, max_new_tokens=1)
        assert {rung: timed["dtype"] for rung, timed in found.rungs.items()} == dict.fromkeys(found.rungs, name)
        assert [model.dtype for model in models] == [dtype] * 3
        assert any("few fast kernels" in note for note in found.notes) == (dtype != torch.float32)
        assert bench_table(found).count(name) >= 3

    def test_engines_of_two_types(self, samples, bundle, model_dir, tmp_path, use_engine, monkeypatch):
        whole = write_twin_bundle(tmp_path / "whole", model_dir, Schedule(num_layers=4))
        monkeypatch.setattr(TwinTarget, "dtype", property(lambda _: next(types)))
        types = iter(("float16", "float32"))
        short = {"repeats": 1, "warmup": 0, "max_new_tokens": 1, "compare_torch": False}
        found = bench(bundle, samples, target="twin", unpruned=whole, **short)
        assert [found.rungs[rung]["dtype"] for rung in ("engine", "engine_unpruned")] == ["float16", "float32"]
        assert "engine_unpruned computes in float32 and engine in float16" in found.notes[-1]
        settings = bench_settings(found.to_dict())
        assert "engine, pruned: float16; engine, unpruned: float32" in settings

    def test_without_torch(self, samples, bundle, use_engine):
        found = bench(bundle, samples, target="twin", repeats=1, warmup=0, max_new_tokens=1, compare_torch=False)
        assert set(found.rungs) == {"engine"} and found.ratios == {}

    def test_more_rows_than_samples(self, samples, bundle, use_engine):
        found = bench(
            bundle, samples[:1], target="twin", batch_size=3, repeats=1, warmup=0, max_new_tokens=1, compare_torch=False
        )
        assert found.batch["rows"] == 3

    @pytest.mark.parametrize("wrong", [{"repeats": 0}, {"batch_size": 0}, {"max_new_tokens": 0}, {"warmup": -1}])
    def test_impossible_settings(self, samples, bundle, wrong):
        with pytest.raises(InputError):
            bench(bundle, samples, target="twin", **wrong)

    def test_an_unpruned_bundle_of_another_model(self, samples, bundle, use_engine):
        other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, config_hash="1" * 64))
        with pytest.raises(InputError, match="another model"):
            bench(bundle, samples, target="twin", unpruned=other)

    def test_an_unpruned_bundle_that_drops_tokens(self, samples, bundle, use_engine):
        with pytest.raises(InputError, match="its schedule drops tokens"):
            bench(bundle, samples, target="twin", unpruned=bundle)

    def test_an_unpruned_bundle_of_other_weights(self, samples, bundle, model_dir, tmp_path, use_engine):
        whole = write_twin_bundle(tmp_path / "whole", model_dir, Schedule(num_layers=4))
        weights = whole.manifest.weights
        records = tuple(dataclasses.replace(record, sha256="1" * 64) for record in weights.files)
        manifest = dataclasses.replace(whole.manifest, weights=dataclasses.replace(weights, files=records))
        with pytest.raises(InputError, match="other weights"):
            bench(bundle, samples, target="twin", unpruned=dataclasses.replace(whole, manifest=manifest))

    def test_a_model_folder_of_another_model(self, samples, bundle, model_dir, tmp_path, use_engine):
        other = shutil.copytree(model_dir, tmp_path / "other")
        config = json.loads((other / "config.json").read_text())
        config["text_config"]["rms_norm_eps"] = 1e-3
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="not the model of this bundle"):
            bench(bundle, samples, target="twin", model_dir=other)

    def test_a_share_that_the_target_cannot_tell(self, samples, bundle, use_engine, monkeypatch):
        monkeypatch.setattr(TwinTarget, "selector_shares", lambda *_: {"vision": None, "prefill": 0.5})
        found = bench(bundle, samples, target="twin", repeats=1, warmup=0, max_new_tokens=1, compare_torch=False)
        assert "selector" not in found.rungs["engine"]["seconds"] and found.rungs["engine"]["seconds"]["vision"]
        assert bench_table(found).splitlines()[1].split()[4] == "–"
