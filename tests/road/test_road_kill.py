"""Killed or interrupted at any moment: nothing half-written under a final name, and the next run ends with the same
bytes as a run that nobody touched."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from child_signals import HEEDING_INTERRUPTS
from road_project import COMMAND, Finished, Project, environment, files_of, is_temporary, vitcop

Stop = Callable[[subprocess.Popen], None]
"""Waits for the moment at which a run is to be stopped."""


def in_stage(stage: str, seconds: float) -> Stop:
    """So long after a stage has said that it runs."""

    def wait(child: subprocess.Popen) -> None:
        for line in child.stderr:
            if line.startswith(f"{stage}: running"):
                time.sleep(seconds)
                return

    return wait


def after(seconds: float) -> Stop:
    """So long after the start."""
    return lambda child: time.sleep(seconds)


def stopped(project: Project, out: Path, moment: Stop, sent: int) -> tuple[int, list[str]]:
    """Start a run and send its whole process group a signal; returns its status and what it said last on stderr."""
    child = subprocess.Popen(
        [*HEEDING_INTERRUPTS, *COMMAND, "run", str(project.recipe), "-o", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    watchdog = threading.Timer(600, child.kill)
    watchdog.start()
    try:
        moment(child)
        if child.poll() is None:
            os.killpg(child.pid, sent)
        _, said = child.communicate()
    finally:
        watchdog.cancel()
        child.kill()
    return child.returncode, said.splitlines()


def check_whole(out: Path, expected: dict[str, bytes], when: str) -> None:
    """Every file under a final name is whole: it has the bytes that an uninterrupted run gives it."""
    for name, content in files_of(out).items() if out.exists() else ():
        assert name in expected, f"{when}: unexpected file {name}"
        assert content == expected[name], f"{when}: {name} differs from an uninterrupted run"


def stop_and_resume(project: Project, reference: Finished, out: Path, stops: list[tuple[Stop, int]]) -> list[int]:
    """Stop a run once or several times, then let it end; check files after each stop. Returns the statuses."""
    expected, statuses = files_of(reference.out), []
    for number, (moment, sent) in enumerate(stops):
        when = f"{out.name}, stop {number} by {signal.Signals(sent).name}"
        status, said = stopped(project, out, moment, sent)
        statuses.append(status)
        if sent == signal.SIGINT and status != 0:
            assert status == 130, f"{when}: exit status {status}, {said}"
            assert said[-1].startswith("vitcop: error: interrupted; nothing is half-written, and a run goes on"), (
                f"{when}: {said}"
            )
            assert not any("Traceback" in line or "error" in line for line in said[:-1]), f"{when}: {said}"
        elif status != 0:
            assert status == -sent, f"{when}: exit status {status}, {said}"
        check_whole(out, expected, when)
    done = vitcop("run", project.recipe, "-o", out)
    assert done.returncode == 0, f"{out.name}: {done.stderr}"
    assert done.stdout.splitlines()[-1] == "PASSED"
    assert files_of(out) == expected
    left = [path.name for path in out.rglob("*") if is_temporary(path.relative_to(out))]
    assert left == [], f"{out.name}: temporary names left behind"
    return statuses


def test_stopped_in_each_part_of_the_road(project, finished, tmp_path):
    """One run that is interrupted while it calibrates, then killed there, in the export and late."""
    draw = random.Random(7)
    parts = (("calibrate", signal.SIGINT), ("calibrate", signal.SIGKILL), ("export", signal.SIGKILL))
    # Well before the end of a run that may be several times as fast as the one that was timed.
    stops = [
        (in_stage(stage, draw.uniform(0.02, 0.2) * finished.seconds(stage)), sent)
        for stage, sent in (*parts, ("verify", signal.SIGKILL))
    ]
    statuses = stop_and_resume(project, finished, tmp_path / "out", stops)
    assert statuses[:3] == [130, -signal.SIGKILL, -signal.SIGKILL]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_stopped_at_twenty_random_moments(project, finished, tmp_path):
    """Moments over the whole duration of a run, its start included; every fourth is an interrupt."""
    draw = random.Random(20)
    total = sum(step.get("seconds", 0) for step in finished.told["stages"])
    plans = [
        [(after(draw.uniform(0.5, 1.1 * total)), signal.SIGINT if number % 4 == 3 else signal.SIGKILL)]
        for number in range(20)
    ]
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(stop_and_resume, project, finished, tmp_path / f"run-{number}", stops)
            for number, stops in enumerate(plans)
        ]
        statuses = [future.result()[0] for future in running]
    assert sum(status != 0 for status in statuses) >= 10
