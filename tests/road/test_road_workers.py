"""`vitcop calibrate` by one, two and three workers, left alone or killed at any moment: the same bytes, and nothing
that had finished is done again."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from road_project import COMMAND, Project, environment, vitcop

from vitcop.calibrate.models.loading import load_model
from vitcop.pipeline.cli import cli

RESULTS = ("schedule.json", "calibration.json")
STORE = Path(".vitcop") / "calibrate"


@dataclass(frozen=True)
class Straight:
    """A calibration in one process that nobody touched: its files and how long it took."""

    files: dict[str, bytes]
    seconds: float


def arguments(project: Project, out: Path, workers: int | None) -> list[object]:
    data = project.root / "data"
    sets = ["--calibration", data / "calibration.jsonl", "--selection", data / "selection.jsonl"]
    return ["calibrate", project.model, *sets, "-o", out, *([] if workers is None else ["--workers", workers])]


def results_of(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


def units_of(out: Path) -> dict[str, int]:
    """When each finished unit was written, in nanoseconds."""
    return {file.name: file.stat().st_mtime_ns for file in (out / STORE).glob("unit-*.json")}


@pytest.fixture(scope="module")
def straight(project, tmp_path_factory) -> Straight:
    out, begun = tmp_path_factory.mktemp("straight") / "out", time.monotonic()
    done = vitcop(*arguments(project, out, None))
    assert done.returncode == 0, done.stderr
    return Straight(results_of(out), time.monotonic() - begun)


def test_two_workers_give_the_same_bytes(project, straight, tmp_path):
    done = vitcop(*arguments(project, tmp_path / "out", 2))
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "out") == straight.files
    assert len(units_of(tmp_path / "out")) > 10


def test_shards_join_to_the_same_bytes(project, straight, tmp_path):
    """Each in a folder of its own, as on machines of their own."""
    outs = [tmp_path / "1", tmp_path / "2"]
    for index, out in enumerate(outs, start=1):
        done = vitcop(*arguments(project, out, None), "--shard", f"{index}/2", "--json")
        assert done.returncode == 0, done.stderr
        assert [file.name for file in out.glob("*.json")] == [f"partial-{index}-of-2.json"]
    merged = ("--merge", outs[0], "--merge", outs[1] / "partial-2-of-2.json")
    done = vitcop(*arguments(project, tmp_path / "whole", None), *merged)
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "whole") == straight.files


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_model_runs_as_asked(project, tmp_path, monkeypatch, dtype, kind):
    loaded = []

    def load(*args, **named):
        loaded.append(load_model(*args, **named))
        return loaded[-1]

    monkeypatch.setattr("vitcop.calibrate.work.units.load_model", load)
    options = ("--dtype", dtype, "--batch-size", 2, "--metric", "anls", "--attn", "eager", "--shard", "1/8")
    done = CliRunner().invoke(cli, [str(item) for item in (*arguments(project, tmp_path, None), *options)])
    assert done.exit_code == 0, done.stderr
    ((model, _, _),) = loaded
    assert model.dtype == kind and model.config.text_config._attn_implementation == "eager"
    settings = json.loads((tmp_path / "partial-1-of-8.json").read_text())["run"]["settings"]
    assert {name: settings[name] for name in ("batch_size", "dtype", "metric", "attn", "device")} == {
        "batch_size": 2, "dtype": str(kind).removeprefix("torch."), "metric": "anls", "attn": "eager", "device": "cpu",
    }  # fmt: skip


def workers_under(parent: int) -> list[int]:
    """Processes that a process has started and that still run."""
    try:
        return [int(name) for name in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def killed(project: Project, out: Path, workers: int, seconds: float, draw: random.Random, what: str) -> int | None:
    """Start a calibration; after a while kill it, or one of its workers. Returns its status where it is over."""
    child = subprocess.Popen(
        [*COMMAND, *map(str, arguments(project, out, workers))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    watchdog = threading.Timer(1200, child.kill)
    watchdog.start()
    try:
        time.sleep(seconds)
        found = workers_under(child.pid)
        if what == "worker":
            if found:
                os.kill(draw.choice(found), signal.SIGKILL)
        elif child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        # Workers hold the other end: reading to the end waits for the last of them.
        _, said = child.communicate()
    finally:
        watchdog.cancel()
        child.kill()
    assert child.returncode in (0, -signal.SIGKILL), f"{out.name}: {said}"
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and running(pid) for pid in found), "an orphan worker"
    return child.returncode


def running(pid: int) -> bool:
    """Whether a process is there and is a worker: its number may have gone to another one."""
    try:
        return b"executors.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_and_resume(project: Project, straight: Straight, out: Path, seed: int) -> int:
    """One to three kills, then a run to the end, each with its own number of workers. Returns how many kills hit."""
    draw, hits = random.Random(seed), 0
    for _ in range(draw.randint(1, 3)):
        what = draw.choice(("parent", "parent", "worker"))
        before = units_of(out)
        workers, seconds = draw.randint(1, 3), draw.uniform(0.2, 1.0) * straight.seconds
        status = killed(project, out, workers, seconds, draw, what)
        after = units_of(out)
        assert before.items() <= after.items(), f"{out.name}: a finished unit was done again"
        hits += status != 0 or what == "worker"
        if status == 0:
            assert results_of(out) == straight.files, f"{out.name}: {workers} workers, {what} killed"
    before = units_of(out)
    workers = draw.randint(1, 3)
    done = vitcop(*arguments(project, out, workers), timeout=1200)
    assert done.returncode == 0, f"{out.name}: {done.stderr}"
    assert results_of(out) == straight.files, f"{out.name}: resumed with {workers} workers"
    assert before.items() <= units_of(out).items(), f"{out.name}: a finished unit was done again"
    return hits


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_twenty_random_moments(project, straight, tmp_path):
    """Parents and workers, by SIGKILL; one, two and three workers, changing from one attempt to the next."""
    with ThreadPoolExecutor(2) as pool:
        attempts = [
            pool.submit(kill_and_resume, project, straight, tmp_path / f"run-{seed}", seed) for seed in range(20)
        ]
        hits = [future.result() for future in attempts]
    assert sum(hits) >= 20
