"""A second `vitcop run` reuses what still holds, says so, and rewrites nothing."""

import json
import shutil

from road_project import stages_of, vitcop

DONE = ("calibrate", "export", "build", "verify", "report")
LEFT_OUT = ("reference", "bench")


def times_of(out) -> dict[str, int]:
    """Modification times of all results and records."""
    return {
        path.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("lock", "digests.json")
    }


def test_first_run_makes_everything(finished):
    assert finished.told["passed"] is True
    assert {step["stage"] for step in finished.told["stages"] if step["action"] == "run"} == set(DONE)
    for name in ("schedule.json", "calibration.json", "bundle/manifest.json", "build.json", "verify.json"):
        json.loads((finished.out / name).read_text())
    assert json.loads((finished.out / "verify.json").read_text())["passed"] is True
    calibration = json.loads((finished.out / "calibration.json").read_text())
    assert calibration["candidates"] and calibration["selection"]
    assert (finished.out / "bundle" / "schedule.json").read_bytes() == (finished.out / "schedule.json").read_bytes()
    assert json.loads((finished.out / "schedule.json").read_text())["drops"]


def test_second_run_reuses_every_stage(project, finished):
    before = times_of(finished.out)
    done = vitcop("run", project.recipe, "-o", finished.out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"report: {finished.out / 'report.html'}", "PASSED"]
    assert done.stderr.splitlines() == [
        f"{stage}: {'left out by the recipe' if stage in LEFT_OUT else 'reused, nothing changed'}"
        for stage in ("calibrate", "export", "build", "verify", "reference", "bench", "report")
    ]
    assert times_of(finished.out) == before


def test_a_change_of_verify_reruns_what_depends_on_it(project, finished, tmp_path):
    out, recipe = tmp_path / "out", project.root / "recipe-verify.yaml"
    shutil.copytree(finished.out, out)
    old, new = "verify:\n  batch_size: 4\n", "verify:\n  controls: false\n  batch_size: 4\n"
    assert old in project.recipe.read_text()
    recipe.write_text(project.recipe.read_text().replace(old, new))
    before = times_of(out)

    plan = vitcop("run", recipe, "-o", out, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "recipe key verify.controls changed (True → False)" in plan.stdout
    assert times_of(out) == before

    done = vitcop("run", recipe, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    wanted = dict.fromkeys(DONE, "reuse") | dict.fromkeys(LEFT_OUT, "skip") | {"verify": "run", "report": "run"}
    assert stages_of(done) == wanted
    assert "verify: running (recipe key verify.controls changed (True → False))" in done.stderr
    changed = {name for name, at in times_of(out).items() if before.get(name) != at}
    assert changed == {"verify.json", "report.html", ".vitcop/stages/verify.json", ".vitcop/stages/report.json"}
    rows = {
        name: json.loads((folder / "verify.json").read_text())["rows"]
        for name, folder in (("before", finished.out), ("now", out))
    }
    assert {"random", "uniform"} <= set(rows["before"][0]["answers"])
    assert not {"random", "uniform"} & set(rows["now"][0]["answers"])
