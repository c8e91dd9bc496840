"""`make trt-check` where it can be tried: its comparison over engines of ONNX Runtime, right and wrong ones, and its
exit status on a machine without TensorRT."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from real_api import ROOT
from test_engine_run import make_run

from vitcop.export.runtimes.tensorrt import TensorRtOptions
from vitcop.plugins.errors import GateError, MissingError

PROGRAM = ROOT / "benchmarks" / "trt_check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("trt_check", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(check, bundle, make_batch, model_folder):
    return check.Reference(bundle, [make_batch(3), make_batch(1)], "cpu", model_folder)


@pytest.mark.parametrize("form", ["lengths", "plain"])
def test_a_right_engine_passes(check, reference, bundle, form):
    found = check.compare(reference, make_run(bundle, form), "float32")
    assert found["logit_deviation"] < 1e-4 and found["layer_deviation"] < 1e-4 and found["prompts"] == 4


@pytest.mark.parametrize("form", ["lengths", "plain"])
def test_prompts_of_text_alone_can_be_compared(check, bundle, model_folder, form):
    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    processor, family = load_processor(bundle.processor_folder), family_in(bundle.path)
    texts = ["USER: what color is the circle ? ASSISTANT:", "USER: what large red circle is the color ? ASSISTANT:"]
    reference = check.Reference(bundle, [family.prepare(processor, texts, [[], []])], "cpu", model_folder)
    assert check.compare(reference, make_run(bundle, form), "float32")["prompts"] == 2


def test_half_precision_is_allowed_what_torch_loses(check, reference):
    assert 1e-6 < reference.loss_of("bfloat16") < 1


class Wrong:
    """An engine with one mistake."""

    name, dtype = "wrong", "float32"

    def __init__(self, run, mistake):
        self._run, self._mistake = run, mistake

    def prefill(self, batch):
        from dataclasses import replace

        done = self._run.prefill(batch)
        if self._mistake == "kept":
            kept = done.vision.kept_visual.copy()
            kept[:, 0] = np.setdiff1d(np.arange(16), kept[0])[0]
            return replace(done, vision=replace(done.vision, kept_visual=np.sort(kept, axis=1)))
        return done

    def decode(self, tokens, state):
        logits = self._run.decode(tokens, state)
        return logits + 0.01 if self._mistake == "logits" else logits

    def kv(self, state):
        found = self._run.kv(state)
        if self._mistake == "caches":
            found[1][0][0, 0, -7] += 1.0
        return found


@pytest.mark.parametrize(
    ("mistake", "words"),
    [("kept", "keeps other tokens"), ("logits", "logits deviate by"), ("caches", "keys and values deviate")],
)
def test_a_wrong_engine_fails(check, reference, bundle, mistake, words):
    with pytest.raises(GateError, match=words):
        check.compare(reference, Wrong(make_run(bundle, "lengths"), mistake), "float32")


def test_a_step_that_fails_is_recorded_and_the_next_goes_on(check, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check, "OUT", tmp_path)
    record = check.Record("tensorrt")

    def bad():
        raise MissingError("no\nmemory")

    assert record.step("a", lambda: {"line": "fine"}) and not record.step("b", bad)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok     a (") and lines[0].endswith("fine")
    assert lines[1].startswith("FAILED b (") and lines[1].endswith("MissingError: no memory")
    assert set(json.loads((tmp_path / "trt_check.json").read_text())["steps"]) == {"a", "b"}

    assert record.status() == MissingError.exit_status == 4
    record.step("c", lambda: check.check_streamed({"prefill": (8, 8)}))
    assert record.status() == 1 and check.Record("tensorrt").status() == 0


def test_weights_that_all_fit_are_not_streamed(check):
    assert check.check_streamed({"vision": (0, 0), "prefill": (0, 8)})
    for budgets in ({"prefill": (8, 8), "decode": (0, 8)}, {"prefill": (0, 0)}):
        with pytest.raises(GateError, match="no weights are streamed"):
            check.check_streamed(budgets)


def test_caches_in_place_may_not_be_plain_without_a_word(check, tmp_path):
    engine = SimpleNamespace(sidecar={"kv_cache": {"form": "plain"}})
    target = SimpleNamespace(build=lambda bundle, options: engine)
    with pytest.raises(GateError, match="caches of form plain"):
        check._build(target, None, check._options({}, tmp_path))
    assert check._build(target, None, check._options({"kv_cache": "plain"}, tmp_path))["kv_form"] == "plain"


def test_every_way_is_told_apart_by_its_options(check, tmp_path):
    ways = [way for way in (check.PRECISE | check.VARIANTS).values() if "cuda_graph" not in way]
    chosen = [TensorRtOptions.of(check._options(way, tmp_path)) for way in ways]
    for asked in chosen:
        fitting = [built for built in chosen if asked.asked_for().items() <= built.for_key().items()]
        assert fitting == [asked]


def test_without_tensorrt_one_line_and_status_4(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "tensorrt.py").write_text("raise ImportError('hidden by a test')\n")
    path = os.pathsep.join([str(hidden), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OUT": str(tmp_path / "out")}
    done = subprocess.run([sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True)
    assert done.returncode == 4 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "needs the package tensorrt" in done.stderr
    assert not (tmp_path / "out").exists()
