"""A second run reuses what still holds and says why it reruns; interrupted runs end in the same files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from child_signals import HEEDING_INTERRUPTS
from fake_project import files_of, write_samples

from vitcop.pipeline import run
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

ALL = ["calibrate", "export", "build", "verify", "reference", "bench", "report"]


@pytest.fixture
def out(project: Path) -> Path:
    return project / "out"


@pytest.fixture
def again(project, out, fake_stages):
    """Runs the project's recipe; returns {stage: (action, reason)}."""

    def call(**kwargs):
        fake_stages.ran.clear()
        result = run(project / "recipe.yaml", out, **kwargs)
        return {step.stage: (step.action, step.reason) for step in result.steps}

    return call


def add_to_recipe(project: Path, text: str) -> None:
    with (project / "recipe.yaml").open("a") as file:
        file.write(text)


def test_first_run_runs_all_second_none(again, fake_stages, out):
    assert {reason for _, reason in again().values()} == {"not run yet"}
    assert fake_stages.ran == ALL
    before = files_of(out)
    assert {action for action, _ in again().values()} == {"reuse"}
    assert fake_stages.ran == []
    assert files_of(out) == before
    assert set(before) == {
        "schedule.json", "calibration.json", "bundle/manifest.json", "bundle/engines/onnxruntime/0/engine.json",
        "build.json", "verify.json", "bench.json", "report.html",
    }  # fmt: skip


def test_recipe_key_changed(again, fake_stages, project):
    again()
    add_to_recipe(project, "  seed: 5\n")
    steps = again()
    assert steps["calibrate"] == ("run", "recipe key calibrate.seed changed (0 → 5)")
    assert steps["export"] == ("run", "input schedule.json changed")
    # The fake bundle is the same for any schedule, so what follows from it alone still holds.
    assert steps["build"][0] == "reuse"


def test_a_setting_of_one_stage_leaves_earlier_ones_alone(again, fake_stages, project):
    again()
    add_to_recipe(project, "verify:\n  batch_size: 2\n")
    assert again()["verify"] == ("run", "recipe key verify.batch_size changed (8 → 2)")
    assert fake_stages.ran == ["verify"]


def test_samples_changed(again, fake_stages, project):
    again()
    write_samples(project / "data" / "selection.jsonl", count=4)
    assert again()["calibrate"] == ("run", "input selection samples changed")
    assert fake_stages.ran == ["calibrate"]


def test_image_bytes_changed(again, project):
    again()
    images = project / "data" / "images"
    shutil.copy(images / "evaluation-2.png", images / "evaluation-1.png")
    steps = again()
    assert [stage for stage in ALL if steps[stage] == ("run", "input evaluation samples changed")] == [
        "verify",
        "bench",
        "report",
    ]


def test_model_changed(again, project):
    again()
    weights = project / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert again()["calibrate"] == ("run", "input model changed")


def test_version_changed(again, monkeypatch):
    again()
    monkeypatch.setattr(
        "vitcop.export.bundle.versions.version_of", lambda name: "9.9" if name == "onnxruntime" else "absent"
    )
    reason = again()["build"][1]
    assert reason.startswith("version of onnxruntime changed (") and reason.endswith("→ 9.9)")


def test_sources_of_a_development_install_changed(again, fake_stages, monkeypatch):
    again()
    monkeypatch.setattr("vitcop.pipeline.versions.stage_version", lambda: "0.2.0+src.0123456789ab")
    assert again()["calibrate"][1].startswith("version of vitcop changed (")
    assert fake_stages.ran == ALL


def test_another_revision_of_an_op(again, fake_stages, monkeypatch):
    again()
    monkeypatch.setitem(REVISIONS, "ClusterMergePlan", 99)
    assert again()["calibrate"][1].startswith("version of vitcop::ClusterMergePlan changed (")
    assert fake_stages.ran == ALL


def test_another_machine_measures_times_again(again, fake_stages, monkeypatch):
    again()
    facts = {"cpu": "Another CPU", "cores": 3}
    monkeypatch.setattr("vitcop.export.machine.machine_facts", lambda: facts)
    assert again()["bench"][1].startswith("version of cores changed (")
    # The report's one input that changed is bench.json, which the fake stage writes alike.
    assert fake_stages.ran == ["bench"]


def test_output_missing_or_changed(again, fake_stages, out):
    again()
    (out / "schedule.json").unlink()
    assert again()["calibrate"] == ("run", "output schedule.json is missing")
    assert fake_stages.ran == ["calibrate"]
    (out / "verify.json").write_text("{}")
    assert again()["verify"] == ("run", "output verify.json was changed")
    shutil.rmtree(out / "bundle" / "engines")
    assert again()["build"] == ("run", "output bundle/engines is missing")


def test_samples_and_recipe_may_move(again, fake_stages, project, tmp_path):
    """Of a moved project only the bundles are made again, since they refer to the model's folder."""
    again()
    moved = tmp_path / "moved"
    project.rename(moved)
    fake_stages.ran.clear()
    result = run(moved / "recipe.yaml", moved / "out")
    assert {step.stage for step in result.steps if step.action == "run"} == {"export", "reference"}
    assert all("model folder" in step.reason for step in result.steps if step.action == "run")


def test_self_contained_bundle_may_move(again, fake_stages, project, tmp_path):
    add_to_recipe(project, "export:\n  copy_weights: true\n")
    again()
    moved = tmp_path / "moved"
    project.rename(moved)
    result = run(moved / "recipe.yaml", moved / "out")
    assert {step.stage for step in result.steps if step.action == "run"} == {"reference"}


def test_relative_and_absolute_paths_are_the_same_recipe(again, fake_stages, project, out, monkeypatch):
    again()
    fake_stages.ran.clear()
    monkeypatch.chdir(project)
    run("recipe.yaml", "out")
    assert fake_stages.ran == []


def test_dry_run_says_what_would_happen_and_writes_nothing(again, fake_stages, project, out):
    steps = again(dry_run=True)
    assert {action for action, _ in steps.values()} == {"run"}
    assert steps["export"][1] == "schedule.json is made again by calibrate"
    assert not out.exists() and fake_stages.ran == []
    again()
    assert {action for action, _ in again(dry_run=True).values()} == {"reuse"}
    add_to_recipe(project, "export:\n  copy_weights: true\n")
    before = files_of(out)
    steps = again(dry_run=True)
    assert steps["calibrate"] == ("reuse", "nothing changed")
    assert steps["export"] == ("run", "recipe key export.copy_weights changed (False → True)")
    assert steps["build"] == ("run", "bundle is made again by export")
    assert files_of(out) == before and fake_stages.ran == []


def test_stage_left_out_by_the_recipe(again, fake_stages, project, out):
    again()
    add_to_recipe(project, "bench:\n  enabled: false\n")
    steps = again()
    assert steps["bench"] == steps["reference"] == ("skip", "left out by the recipe")
    assert steps["report"] == ("run", "input bench.json is gone")
    assert not (out / "bench.json").exists()


def test_folders_are_told_by_the_stages_that_are_given(again, fake_stages, project, out):
    """A stage table whose bundle leaves out a folder that the usual one does not."""
    export = next(stage for stage in fake_stages.table if stage.name == "export")
    bundle = replace(export.outputs[0], without=("engines", "notes"))
    table = tuple(replace(stage, outputs=(bundle,)) if stage.name == "export" else stage for stage in fake_stages.table)
    again(stages=table)
    (out / "bundle" / "notes").mkdir()
    (out / "bundle" / "notes" / "mine.txt").write_text("not an output")
    assert {action for action, _ in again(stages=table).values()} == {"reuse"}
    assert {action for action, _ in again(stages=table, dry_run=True).values()} == {"reuse"}
    assert again(stages=fake_stages.table)["export"][0] == "run"


@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_failing_stage_leaves_no_half_output(again, fake_stages, project, out, tmp_path, stage, error):
    fake_stages.fail[stage] = error
    with pytest.raises(type(error)):
        again()
    whole = files_of(out)
    assert not [name for name in whole if "partial" in name]
    fake_stages.fail.clear()
    steps = again()
    done = ALL[: ALL.index(stage)]
    assert [name for name in ALL if steps[name][0] == "reuse"] == done
    resumed = files_of(out)
    assert {name: resumed[name] for name in whole} == whole
    straight = tmp_path / "straight"
    run(project / "recipe.yaml", straight)
    assert files_of(straight) == resumed


def test_leftovers_of_a_killed_run_are_removed(again, fake_stages, out):
    again()
    (out / ".partial-verify.json").write_text("half")
    (out / ".bundle.partial-123").mkdir()
    (out / ".partial-old-bundle").mkdir()
    (out / "bundle" / "engines" / "onnxruntime" / ".0.partial-9").mkdir()
    (out / ".vitcop" / "stages" / ".partial-verify.json.json").write_text("half")
    again()
    assert fake_stages.ran == []
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_unreadable_record_means_run_again(again, out):
    again()
    for text in ("", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 99}'):
        (out / ".vitcop" / "stages" / "verify.json").write_text(text)
        assert again()["verify"] == ("run", "not run yet")


def test_two_runs_in_one_folder(project, out, again):
    from vitcop.pipeline.workspace import Workspace

    with (
        Workspace(out).locked(),
        pytest.raises(InputError, match="another vitcop run .process [0-9]+. is working in this folder"),
    ):
        again()
    again()


def test_failed_gate_still_writes_the_report(invoke, fake_stages, project, out):
    fake_stages.passed = False
    for ran in (ALL, []):
        fake_stages.ran.clear()
        result = invoke("run", project / "recipe.yaml", "-o", out)
        assert result.exit_code == 3
        assert result.stdout.splitlines()[-1] == "FAILED"
        assert result.stderr.splitlines()[-1].startswith("vitcop: error: a gate failed")
        assert fake_stages.ran == ran
        assert (out / "report.html").exists()


def test_json_is_one_object_on_stdout(invoke, fake_stages, project, out):
    result = invoke("run", project / "recipe.yaml", "-o", out, "--json")
    data = json.loads(result.stdout)
    assert data["passed"] is True
    assert [stage["stage"] for stage in data["stages"]] == ALL
    assert all(stage["action"] == "run" for stage in data["stages"])
    plan = json.loads(invoke("run", project / "recipe.yaml", "-o", out, "--dry-run", "--json").stdout)
    assert plan["passed"] is None and {stage["action"] for stage in plan["stages"]} == {"reuse"}


SLOW_RUN = """
import sys, time
sys.path.insert(0, {tests!r})
import fake_project, vitcop.pipeline.running as steps
fakes = fake_project.FakeStages()
write = fakes._write
def slow(stage, target, name, context):
    write(stage, target, name, context)
    if name == {name!r}:
        print("half way", flush=True)
        time.sleep(60)
fakes._write = slow
steps.STAGES = fakes.table
from vitcop.pipeline.cli import cli
cli(["run", {recipe!r}, "-o", {out!r}])
"""


@pytest.mark.parametrize("name", ["schedule.json", "bundle", "build.json"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_kill_and_interrupt_then_resume(again, fake_stages, project, out, tmp_path, name, sent):
    code = SLOW_RUN.format(
        tests=str(Path(__file__).parent), recipe=str(project / "recipe.yaml"), out=str(out), name=name
    )
    child = subprocess.Popen(
        [*HEEDING_INTERRUPTS, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "half way\n"
        time.sleep(0.1)
        os.kill(child.pid, sent)
        _, stderr = child.communicate(timeout=30)
    finally:
        child.kill()
    if sent is not signal.SIGKILL:
        assert child.returncode == 130
        assert stderr.splitlines()[-1].startswith("vitcop: error: interrupted")
        assert not list(out.rglob(".partial-*"))
    again()
    straight = tmp_path / "straight"
    run(project / "recipe.yaml", straight)
    assert files_of(straight) == files_of(out)
