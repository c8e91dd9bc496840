"""Benchmarks at tiny sizes: what they write, and the arithmetic behind it."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_tiny_llava

from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.run.original import cache_bytes
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.schedule.schedule import Schedule, VisionStage

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ONE_TOKEN = VisionStage(keep=(1, 8))
NAMES = ("none", "paper-1/3", "paper-2/9", "paper-1/9")


@pytest.fixture
def benchmark(monkeypatch):
    """The modules of the benchmark, found as they find each other when one is started as a program."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import prefill_gpu
    import roofline

    return prefill_gpu, roofline


def test_smoke_run(benchmark, monkeypatch, tmp_path, capsys):
    program, _ = benchmark
    monkeypatch.setattr(program, "OUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["prefill_gpu.py", "--smoke", "--batches", "1", "2"])
    program.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(NAMES) and "paper-1/9" in lines[-1]
    results = json.loads((tmp_path / "prefill_gpu.json").read_text())
    assert results["smoke"] and all(peak > 0 for peak in results["peaks"].values())
    for batch in (1, 2):
        rows = [row for row in results["rows"] if row["batch"] == batch]
        assert [row["schedule"] for row in rows] == list(NAMES)
        for first, second in pairwise(rows):
            for falling in ("roofline_seconds", "kv_bytes", "flops"):
                assert first[falling] > second[falling] > 0
        for row in rows:
            lower, upper = row[row["timed"]]["quartiles"]
            assert 0 < lower <= row[row["timed"]]["median"] <= upper
            assert all(math.isfinite(row[key]) for key in ("speedup", "roofline_speedup", "flops_speedup", "share"))
            assert row["share"] == pytest.approx(row["speedup"] / row["roofline_speedup"])


@pytest.mark.parametrize(("flags", "threads", "clock"), [([], 2, "wall time"), (["--cpu-time"], 1, "processor time")])
def test_latency_forecast(benchmark, monkeypatch, tmp_path, capsys, flags, threads, clock):
    """The program around a measurement that is made up: which models, which settings, what is written."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "pipeline"))
    import latency_forecast as program
    from made_up_results import cost_table

    seen, engine = [], SimpleNamespace(perf_counter=perf_counter)

    def measured(name, work, arguments):
        seen.append((name, arguments.threads, arguments.trials))
        return cost_table()

    monkeypatch.setattr(program, "OUT", tmp_path)
    monkeypatch.setattr(program, "measure", measured)
    monkeypatch.setattr(program, "runner", engine)
    monkeypatch.setattr(sys, "argv", ["latency_forecast.py", "--trials", "9", *flags])
    program.main()
    assert seen == [("midsize", threads, 9), ("shapes", threads, 9)]
    assert (engine.perf_counter is perf_counter) == (not flags)
    results = json.loads((tmp_path / "latency_forecast.json").read_text())
    assert results["clock"] == clock and set(results["models"]) == {"midsize", "shapes"}
    assert len(results["models"]["shapes"]["trials"]) == 2
    assert results["models"]["shapes"]["errors"]["trials_worst"] == pytest.approx(0.05)
    assert "error of the forecast: median 3.0 %" in capsys.readouterr().out


def test_shapes_of_7b(benchmark):
    """The model and the prompts that a GPU gets, on the meta device: shapes fit and no value is read."""
    program, _ = benchmark
    config = program.published_config()
    setting = program.Setting(torch.device("meta"), torch.bfloat16, 1, 0, matrix=1, copy=1)
    model, family = program.build_model(config, setting), family_of(config)
    assert model.dtype == torch.bfloat16 and 6.9e9 < sum(weight.numel() for weight in model.parameters()) < 7.2e9
    schedule = preset("paper-1/3", 32, 576)
    found = ScheduledRunner(model, family, schedule).forward(*program.inputs_of(model, family, 8))
    assert found.logits.shape == (8, 32064)
    cost = prefill_cost(DecoderShape.from_config(config), schedule.layer_counts(576), program.TEXT_TOKENS)
    assert cache_bytes(found.state.cache) == 8 * cost.kv_bytes


def test_roofline_of_7b(benchmark):
    """Weights of a decoder layer by hand, and what the bound by bytes does at small budgets."""
    program, roofline = benchmark
    peaks = roofline.Peaks(flops=7e14, bytes=4e12)
    config = program.published_config()

    def work_of(name, batch):
        sizes = {"batch": batch, "num_visual": 576, "num_text": 64, "value_bytes": 2}
        return roofline.prefill_work(config, preset(name, 32, 576), **sizes)

    layers = work_of("none", 1)
    # Patch embedding, 23 tower layers, two products of the projector, 32 decoder layers, the head.
    assert len(layers) == 1 + 23 + 2 + 32 + 1
    weights, values = 4 * 4096**2 + 3 * 4096 * 11008, 4 * 4096 + 8 * 4096 + 6 * 11008
    assert layers[26].bytes == 2 * (weights + 640 * values)
    assert layers[26].flops == 2 * 640 * weights + 4 * 640**2 * 4096
    for batch in (1, 8):
        works = [work_of(name, batch) for name in NAMES]
        times = [roofline.roofline_seconds(work, peaks) for work in works]
        assert all(first > second for first, second in pairwise(times))
        for work, seconds in zip(works, times, strict=True):
            assert seconds >= sum(layer.flops for layer in work) / peaks.flops
            assert seconds >= sum(layer.bytes for layer in work) / peaks.bytes
    # The last layers of paper-1/9 hold 15 + 64 tokens: reading the weights takes longer than the arithmetic.
    last = work_of("paper-1/9", 1)[-2]
    assert last.seconds(peaks) == last.bytes / peaks.bytes > last.flops / peaks.flops


def test_a_gpu_is_needed_otherwise(benchmark, monkeypatch, capsys):
    program, _ = benchmark
    monkeypatch.setattr(program.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["prefill_gpu.py"])
    with pytest.raises(SystemExit):
        program.main()
    assert "no GPU that torch can use" in capsys.readouterr().err


def test_sensitivity_on_a_few_cells(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sensitivity as program

    monkeypatch.setattr(program, "OUT", tmp_path)
    few = ["--samples", "4", "--keeps", "36", "9", "--layers", "0", "6"]
    monkeypatch.setattr(sys, "argv", ["sensitivity.py", *few])
    program.main()
    assert "the same bit by bit" in capsys.readouterr().out
    results = json.loads((tmp_path / "sensitivity.json").read_text())
    assert [(cell["layer"], cell["keep"]) for cell in results["cells"]] == [(0, 36), (0, 9), (6, 36), (6, 9)]
    inside, tower = (len(results["rules"][name]) for name in ("inside", "tower"))
    assert [cell["sample_runs"] for cell in results["cells"]] == [4 * tower] * 2 + [4 * inside] * 2
    assert all(set(cell["seconds"]) == set(program.FORMS) for cell in results["cells"])
    assert all(results[name] > 0 for name in ("times_cheaper", "times_cheaper_tower_once", "times_cheaper_inside"))


def test_sensitivity_says_when_numbers_differ(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sensitivity as program

    monkeypatch.setattr(program, "OUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["sensitivity.py", "--samples", "4", "--keeps", "9", "--layers", "6"])
    measure = program.measure_cell

    def off(evaluator, *args, **kwargs):
        rows = measure(evaluator, *args, **kwargs)
        return rows if evaluator.prefixes is None else rows[1:]

    monkeypatch.setattr(program, "measure_cell", off)
    with pytest.raises(AssertionError, match="the forms differ"):
        program.main()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quality(monkeypatch, tmp_path):
    """The program, with a tiny model and its samples, and the arguments that name them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "calibrate"))
    import exhaustive
    import quality
    from made_samples import write_samples

    model = build_tiny_llava(tmp_path / "model")
    for name, num, seed in (("calibration", 8, 1), ("selection", 6, 2), ("evaluation", 22, 3)):
        write_samples(tmp_path, num, seed, name)
    for rule, schedule in (("1/3", preset("paper-1/3", 4, 16)), ("0.1", Schedule(num_layers=4, vision=ONE_TOKEN))):
        (tmp_path / f"{rule.replace('/', '-')}.json").write_text(schedule.to_json())
    monkeypatch.setattr(quality, "OUT", tmp_path / "results")
    monkeypatch.setattr(exhaustive, "INPUT_SHARES", (1.5,))
    monkeypatch.setattr(exhaustive, "FIRST", exhaustive.FIRST[1:3])
    monkeypatch.setattr(exhaustive, "FINALISTS", 4)
    given = ["--model", str(model), "--data", str(tmp_path), "--store", str(tmp_path / "store")]
    given += ["--max-new-tokens", "2"]
    given += ["--budgets", "1/3", "0.1", "--docs", str(tmp_path / "results.md"), "--schedule"]
    given += [f"1/3={tmp_path / '1-3.json'}", f"0.1={tmp_path / '0.1.json'}"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["quality.py", *given, *more])
        quality.main()
        return json.loads((tmp_path / "results" / "quality.json").read_text())

    return run


def test_quality_smoke_run(quality, tmp_path, capsys, monkeypatch):
    (tmp_path / "results.md").write_text("before\n<!-- quality: begin -->\nold\n<!-- quality: end -->\nbehind\n")
    found = quality("--write-docs", "--exhaustive", "1/3")
    at_third, at_tenth = (found["budgets"][name]["methods"] for name in ("1/3", "0.1"))
    assert at_tenth["fastv"] is at_tenth["pyramiddrop"] is None and at_tenth["visionzip"] is not None
    assert found["average"]["pyramiddrop"]["budgets"] == 1 and found["average"]["visionzip"]["budgets"] == 2
    for wanted, methods in ((1 / 3, at_third), (0.1, at_tenth)):
        for cells in filter(None, methods.values()):
            assert abs(cells["budget"] - wanted) * 16 <= 1
            assert cells["budget"] == pytest.approx(sum(cells["layer_counts"]) / 4 / 16)
            against = cells["against_ours"]["kl"]
            assert against["difference"] == pytest.approx(cells["kl"]["mean"] - methods["calibrated"]["kl"]["mean"])
            assert against["low"] <= against["difference"] <= against["high"] and against["num_clusters"] == 22
    assert at_third["calibrated"]["kl"] == at_third["paper preset"]["kl"], "the schedule given is the preset"
    assert found["budgets"]["1/3"]["share_of_paper"] == {"share": 1.0, "low": 1.0, "high": 1.0}
    grid = found["exhaustive"]["1/3"]
    kl = [item["kl"]["mean"] for item in grid["finalists"]]
    assert kl == sorted(kl) and kl[0] == pytest.approx(grid["selection"]["best"]["kl"]["mean"])
    assert grid["num_tried"] >= len(kl) == 4
    front = [point for point in found["front"] if point["on_front"]]
    assert [point["cost"] for point in front] == sorted(point["cost"] for point in front)
    assert all(a["loss"]["mean"] >= b["loss"]["mean"] for a, b in pairwise(front)) and len(found["front"]) > len(front)
    printed, docs = capsys.readouterr().out, (tmp_path / "results.md").read_text()
    assert "n/a" in printed and "of a coarse grid" in printed
    assert docs.startswith("before\n<!-- quality: begin -->\n22 questions about 22 images") and "old" not in docs
    assert docs.endswith("\n<!-- quality: end -->\nbehind\n") and docs.count("| visionzip |") == 3

    monkeypatch.setattr(Evaluator, "_measure_batch", lambda *_: pytest.fail("measured again"))
    assert quality("--exhaustive", "1/3") == found


def test_quality_says_where_its_table_goes(quality, tmp_path):
    (tmp_path / "results.md").write_text("no markers")
    with pytest.raises(SystemExit, match="quality: begin"):
        quality("--write-docs")
