"""`verify`, `build`, `bench`, `report` and `inspect` on bundles of the micro model."""

import json
import shutil
from html.parser import HTMLParser

import pytest
import torch
from road_project import vitcop
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vitcop.calibrate.schedule.latency import DROP_KINDS, CostTable
from vitcop.calibrate.schedule.schedule import Schedule

VERIFY = ("--limit", 4, "--batch-size", 4, "--max-new-tokens", 3, "--no-controls")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished.out, tmp_path / "out")


def test_verify_passes_the_sound_copy(project, plain):
    done = vitcop("verify", plain, "--data", project.samples, "--model", project.model, *VERIFY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "PASSED"
    assert "FAILED" not in done.stdout and "error" not in done.stderr


def test_verify_fails_weights_that_are_one_percent_off(project, plain, tmp_path):
    """The size is right, so only measuring can tell."""
    bundle = shutil.copytree(plain, tmp_path / "bundle")
    file = bundle / "model.safetensors"
    before = file.stat().st_size
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    stream = torch.Generator().manual_seed(5)
    tensors = {
        name: value * (1 + 0.01 * torch.randn(value.shape, generator=stream)) for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata=metadata)
    assert file.stat().st_size == before

    out = tmp_path / "verify.json"
    done = vitcop("verify", bundle, "--data", project.samples, "--model", project.model, *VERIFY, "-o", out)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "FAILED"
    row = next(line for line in done.stdout.splitlines() if line.startswith("logit_deviation"))
    assert "FAILED" in row
    assert done.stderr.splitlines()[-1].startswith("vitcop: error: ") and "logit_deviation" in done.stderr
    told = json.loads(out.read_text())
    gate = next(gate for gate in told["gates"] if gate["name"] == "logit_deviation")
    assert told["passed"] is False and gate["passed"] is False and gate["value"] > 10 * gate["limit"]


def test_build_reuses_the_engine_and_tells_it_apart_by_its_options(folder):
    bundle = folder / "bundle"
    built = json.loads((folder / "build.json").read_text())
    done = vitcop("build", bundle, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["reused"] is True and told["target"] == "onnxruntime"
    # `vitcop run` names the device in its options, so a changed key would mean that the two roads differ.
    assert (told["key"], told["sha256"]) == (built["key"], built["sha256"])
    other = vitcop("build", bundle, "--option", "threads=1")
    assert other.returncode == 0, other.stderr
    assert other.stdout.startswith(f"engine: {bundle}") and "options differ" in other.stderr
    assert len(list((bundle / "engines" / "onnxruntime").iterdir())) == 2


def test_bench_and_report(project, folder, plain):
    bundle, measured = folder / "bundle", folder / "bench.json"
    once = ("--repeats", 2, "--warmup", 1, "--max-new-tokens", 2)
    done = vitcop("bench", bundle, "--data", project.samples, "--unpruned", plain, *once, "-o", measured, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads(measured.read_text())
    assert set(told["rungs"]) == {"engine", "engine_unpruned", "torch_pruned", "torch_original"}
    assert set(told["ratios"]) == set(told["rungs"]) - {"engine"}
    for name, rung in told["rungs"].items():
        for part, timing in rung["seconds"].items():
            assert 0 <= timing["low"] <= timing["median"] <= timing["high"], (name, part)
        for part in ("prefill", "decode_per_token", "total"):
            assert rung["seconds"][part]["low"] > 0, (name, part)
        # The original runs its vision tower inside its forward.
        assert (rung["seconds"]["vision"]["low"] > 0) == (name != "torch_original")
    kv = {name: rung["kv_bytes"] for name, rung in told["rungs"].items()}
    assert kv["engine"] == kv["torch_pruned"] < kv["engine_unpruned"] == kv["torch_original"]
    assert told["batch"] and told["machine"] and told["settings"]

    done = vitcop("report", folder, "--data", project.samples, "--overlays", 2, "--title", "Two", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"report": str(folder / "report.html")}
    check_page(folder / "report.html", pictures=True)


@pytest.mark.slow
def test_cost_table_of_the_micro_model(project, plain, tmp_path):
    """Real exports (seven of them) and real engines; with two repeats of a millisecond the errors say nothing."""
    out = tmp_path / "cost.json"
    call = ("bench", plain, "--data", project.samples, "--cost-table", out, "--option", "threads=1", "--json")
    once = ("--model", project.model, "--trials", 1, "--repeats", 2, "--warmup", 1)
    done = vitcop(*call, *once)
    assert done.returncode == 0, done.stderr
    table = CostTable.load(out)
    assert json.loads(done.stdout) == json.loads(out.read_text()) == json.loads(table.to_json())
    assert table.num_layers == 2 and table.visual_tokens == 16 and table.options == {"threads": 1}
    kinds = {name.split(".")[1] for name in table.coefficients if name.startswith("drop.")}
    assert kinds == set(DROP_KINDS)
    (trial,) = table.trials
    assert 0 < trial.measured < 5 and trial.forecast > 0
    whole = table.seconds(Schedule(num_layers=2), 16, table.text_tokens)
    assert 0 <= table.layer_seconds(1) * 2 <= whole and whole > 0
    refused = vitcop(*call, "--trials", 1)
    assert refused.returncode == 2 and "give the original model folder with --model" in refused.stderr


def test_report_of_the_run(finished):
    check_page(finished.out / "report.html", pictures=True)


def check_page(file, *, pictures: bool) -> None:
    """The page says the verdict and fetches nothing."""
    html = file.read_text(encoding="utf-8")
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            links.extend(value or "" for name, value in attrs if name.split(":")[-1] in ("src", "href", "srcset"))

    Links().feed(html)
    assert "<strong>PASSED</strong>" in html
    assert all(link.startswith(("#", "data:")) for link in links)
    assert any(link.startswith("data:image/png;base64,") for link in links) == pictures
    assert not any(word in html for word in ("http://", "https://", "@import", "url(", "<script", "<link"))


def test_inspect_bundle_model_and_schedule(project, finished):
    schedule = json.loads((finished.out / "schedule.json").read_text())
    told = {}
    for kind, path in {
        "bundle": finished.out / "bundle",
        "model": project.model,
        "schedule": finished.out / "schedule.json",
    }.items():
        done = vitcop("inspect", path, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        told[kind] = json.loads(done.stdout)
        assert told[kind]["kind"] == kind
    assert told["schedule"]["num_layers"] == schedule["num_layers"] == 2
    assert told["schedule"]["budget"] == pytest.approx(schedule["provenance"]["forecast"]["budget"], abs=1 / 32)
    assert told["schedule"]["config_hash"] == told["model"]["config_hash"] == told["bundle"]["config_hash"]
    assert told["model"]["visual_tokens"] == 16
    assert told["bundle"]["weights"]["mode"] == "referenced"
    assert told["bundle"]["weights"]["folder"] == str(project.model)
    groups = told["bundle"]["schedule"]["groups"]
    assert [layer for group in groups for layer in group["layers"]] == [0, 0, 1, 1]
    assert groups[-1]["visual_tokens"] < 16
