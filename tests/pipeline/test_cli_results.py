"""What commands print when all goes well, or when a gate fails: results on stdout, the rest on stderr."""

import json
from types import SimpleNamespace

import made_up_results
import pytest

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.pipeline.settings import BenchSettings, EngineSettings, SearchSettings, VerifySettings
from vitcop.pipeline.steps.generate import Answer


@pytest.fixture
def replaced(monkeypatch):
    """Replaces a step by a function that notes its arguments and returns a made-up result."""

    def replace(step: str, result: object) -> dict:
        seen: dict = {}

        def fake(*args, **kwargs):
            seen["args"] = args
            seen.update(kwargs)
            return result

        monkeypatch.setattr(f"vitcop.pipeline.steps.{step}.{step}", fake)
        return seen

    return replace


def test_verify_passed(invoke, replaced):
    seen = replaced("verify", made_up_results.verified())
    result = invoke("verify", "b", "--data", "d.jsonl", "--gate", "score_loss=0.1", "--gate", "near_tie_share=off")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["gate", "measured", "limit"] and lines[-1] == "PASSED"
    settings = VerifySettings(gates={"score_loss": 0.1, "near_tie_share": None})
    assert seen["args"] == ("b", "d.jsonl", settings, EngineSettings())


def test_verify_failed(invoke, replaced):
    replaced("verify", made_up_results.verified(passed=False, loss=0.3))
    result = invoke("verify", "b", "--data", "d.jsonl")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1] == "FAILED"
    assert result.stderr.startswith("vitcop: error: FAILED: logit_deviation 0.3 (limit 0.0001)")
    result = invoke("verify", "b", "--data", "d.jsonl", "--json")
    assert result.exit_code == 3 and json.loads(result.stdout)["passed"] is False


def test_verify_gate_that_is_no_number(invoke, replaced):
    replaced("verify", None)
    result = invoke("verify", "b", "--data", "d.jsonl", "--gate", "score_loss")
    assert result.exit_code == 2 and "--gate 'score_loss': expected NAME=LIMIT" in result.stderr


def test_bench(invoke, replaced):
    seen = replaced("bench", made_up_results.benched())
    result = invoke("bench", "b", "--data", "d.jsonl", "--device", "cuda", "--option", "threads=2", "--unpruned", "u")
    assert result.exit_code == 0
    assert "engine unpruned" in result.stdout and "2.10×" in result.stdout
    engine = EngineSettings(options={"device": "cuda", "threads": 2}, device="cuda")
    assert seen["args"] == ("b", "d.jsonl", BenchSettings(), engine) and seen["against"] == "u"
    assert json.loads(invoke("bench", "b", "--data", "d", "--json").stdout)["batch"]["visual_tokens"] == 16


def test_bench_cost_table(invoke, replaced):
    table = made_up_results.cost_table()
    seen = replaced("cost_table", table)
    args = ("bench", "b", "--data", "d.jsonl", "--cost-table", "cost.json", "--device", "cuda", "--option", "threads=2")
    result = invoke(*args, "--trials", "3", "--repeats", "5", "--unpruned", "u")
    assert result.exit_code == 0 and result.stderr == ""
    engine = EngineSettings(options={"device": "cuda", "threads": 2}, device="cuda")
    assert seen["args"] == ("b", "d.jsonl", "cost.json", engine)
    assert (seen["trials"], seen["repeats"], seen["against"], seen["seed"]) == (3, 5, "u", 0)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["schedule", "ms", "forecast", "error"] and "5.0 %" in lines[1]
    assert lines[-2] == "error of the forecast: median 3.0 %, worst 5.0 %"
    assert lines[-1].startswith("measured / forecast from 0.952 to 1.010") and lines[-1].endswith("probability 0.33")
    assert json.loads(invoke(*args, "--json").stdout) == json.loads(table.to_json())


def test_bench_cost_table_takes_no_other_output(invoke, replaced):
    replaced("cost_table", made_up_results.cost_table())
    result = invoke("bench", "b", "--data", "d", "--cost-table", "cost.json", "-o", "bench.json")
    assert result.exit_code == 2 and "--cost-table writes cost.json alone: leave out -o" in result.stderr


def test_bench_cost_table_without_trials(invoke, replaced):
    replaced("cost_table", made_up_results.cost_table(trials=()))
    result = invoke("bench", "b", "--data", "d", "--cost-table", "cost.json")
    assert result.exit_code == 0 and result.stdout == "no trials: the error of the forecast is not known\n"


def test_generate(invoke, replaced):
    answer = Answer(text="blue", tokens=(5, 2), finished=True, visual_tokens=(16, 8, 2), seconds={"prefill": 0.1})
    seen = replaced("generate", answer)
    args = ("generate", "b", "--image", "a.png", "--image", "c.png", "--prompt", "what?", "--temperature", "0.7")
    result = invoke(*args)
    assert result.exit_code == 0 and result.stdout == "blue\n" and result.stderr == ""
    assert seen["args"] == ("b", ("a.png", "c.png"), "what?") and seen["temperature"] == 0.7
    assert json.loads(invoke(*args, "--json").stdout) == {
        "text": "blue",
        "tokens": [5, 2],
        "finished": True,
        "visual_tokens": [16, 8, 2],
        "seconds": {"prefill": 0.1},
    }


def test_build(invoke, replaced, tmp_path):
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / "engine.json").write_text("{}")
    engine = SimpleNamespace(
        target="onnxruntime", key="k", path=folder, reused=True, reason="reused engine k", sidecar={}
    )
    seen = replaced("build", engine)
    facts = json.loads(invoke("build", "b", "--json", "--option", "fast=true", "--option", "x=1.5").stdout)
    assert facts["reused"] is True and len(facts["sha256"]) == 64
    assert seen["options"] == {"fast": True, "x": 1.5}
    result = invoke("build", "b", "--option", "fast")
    assert result.exit_code == 2 and "expected NAME=VALUE" in result.stderr


def test_export_and_report(invoke, replaced, tmp_path):
    seen = replaced("export", tmp_path / "b")
    assert (
        invoke("export", "m", "--schedule", "none", "-o", "b", "--copy-weights").stdout == f"bundle: {tmp_path / 'b'}\n"
    )
    assert seen["args"] == ("m", "none", "b") and seen["copy_weights"] is True
    replaced("report", tmp_path / "report.html")
    assert invoke("report", "out").stdout == f"report: {tmp_path / 'report.html'}\n"


def test_calibrate(invoke, project, monkeypatch):
    seen = []

    def run(self, **places):
        seen.append((self, places))
        return Schedule(num_layers=4, model_id="toy")

    monkeypatch.setattr("vitcop.pipeline.steps.calibrate.Search.run", run)
    data = project / "data"
    files = ("--calibration", data / "calibration.jsonl", "--selection", data / "selection.jsonl")
    result = invoke(
        "calibrate", project / "model", *files, "--budget", "1/4", "--calibration-limit", "2", "-o", project / "out"
    )
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "schedule for toy of 4 layers, budget 1.0000"
    (search, places), *_ = seen
    assert search.settings == SearchSettings(budget=0.25, calibration_limit=2)
    assert len(search.calibration_samples) == 2
    assert places["schedule_out"] == project / "out" / "schedule.json"
    assert places["store"] == project / "out" / ".vitcop" / "calibrate"
