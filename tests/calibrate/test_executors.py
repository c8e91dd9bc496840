"""Executors: the same results wherever units are performed; what happens when workers die, fail, or lose their
parent."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from child_signals import HEEDING_INTERRUPTS

from vitcop.calibrate.work.executors import Factory, InProcess, Processes, Ray, WorkerError, open_executor, opening
from vitcop.plugins.errors import InputError, MissingError

SQUARES = Factory(module="toy_performers", function="make_squares", arguments={"offset": 7})


def units(count, **extra):
    return [{"key": f"u{i}", "kind": "square", "x": i, **extra} for i in range(count)]


def squares(executor, given):
    found = dict(executor.map(given))
    assert sorted(found) == list(range(len(given)))
    assert all(result["pair"] == [1, 2] for result in found.values())
    return [found[i]["y"] for i in range(len(given))]


EXPECTED = [i**2 + 7 for i in range(9)]


@pytest.fixture(scope="module")
def two():
    with Processes(SQUARES, 2) as executor:
        yield executor


def test_in_process():
    with InProcess(SQUARES) as executor:
        assert squares(executor, units(9)) == EXPECTED
        assert executor.performer.done == 9
        assert [place for place, _ in executor.map(units(3))] == [0, 1, 2]
        with pytest.raises(InputError, match="sample 3"):
            list(executor.map(units(1, raises="InputError")))


@pytest.mark.parametrize("num", [1, 2, 3])
def test_processes(num):
    with Processes(SQUARES, num) as executor:
        found = dict(executor.map(units(9)))
        assert [found[i]["y"] for i in range(9)] == EXPECTED
        pids = {result["process"] for result in found.values()}
        assert 1 <= len(pids) <= num and os.getpid() not in pids
        again = {result["process"] for _, result in executor.map(units(9))}
        assert again <= pids or len(pids) < num, "workers are kept from one map to the next"
        assert list(executor.map([])) == []


def test_no_more_workers_than_units():
    with Processes(SQUARES, 3) as executor:
        assert squares(executor, units(1)) == [7]
        assert sum(worker.process is not None for worker in executor._workers) == 1


def test_a_worker_that_dies_is_replaced(two, tmp_path):
    given = units(9)
    given[4]["die_once"] = str(tmp_path / "died")
    assert squares(two, given) == EXPECTED
    assert (tmp_path / "died").exists()


def test_an_idle_worker_that_dies_is_replaced(two):
    for _, result in list(two.map(units(4))):
        os.kill(result["process"], 0)
    killed = {result["process"] for _, result in two.map(units(4))}
    for process in killed:
        os.kill(process, signal.SIGKILL)
    time.sleep(0.1)
    found = dict(two.map(units(9)))
    assert [found[i]["y"] for i in range(9)] == EXPECTED
    assert not killed & {result["process"] for result in found.values()}


def test_a_unit_that_kills_every_worker_is_named(two):
    given = units(5)
    given[2]["die"] = True
    with pytest.raises(MissingError, match="unit square u2: 3 worker processes died at it .*killed by SIGKILL"):
        list(two.map(given))
    assert squares(two, units(9)) == EXPECTED, "the executor goes on"


def test_a_worker_that_dies_while_it_answers_is_replaced(two):
    """Both answers are larger than what a connection holds, so the second worker stands in the middle of its own while
    the caller has the first."""
    results = two.map(units(2, long=2_000_000))
    found = dict([next(results)])
    time.sleep(0.3)
    (answered,) = {result["process"] for result in found.values()}
    (other,) = {worker.process.pid for worker in two._workers} - {answered}
    os.kill(other, signal.SIGKILL)
    found |= dict(results)
    assert [found[i]["y"] for i in range(2)] == EXPECTED[:2]
    assert other not in {result["process"] for result in found.values()}


def test_leaving_the_context_ends_units_that_run(tmp_path):
    given = units(3)
    given[1]["beats"] = str(tmp_path / "beats")
    begun = time.monotonic()
    with Processes(SQUARES, 2) as executor:
        results = executor.map(given)
        next(results), next(results)
        while not (tmp_path / "beats").exists():
            time.sleep(0.02)
        pids = [worker.process.pid for worker in executor._workers]
        begun = time.monotonic()
    assert time.monotonic() - begun < 5, "in less than the time after which a worker is killed"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_errors_keep_their_meaning(two):
    given = units(4)
    given[1]["raises"] = "InputError"
    with pytest.raises(InputError, match="^sample 3: no such image$"):
        list(two.map(given))
    given[1]["raises"] = "ValueError"
    with pytest.raises(WorkerError, match="^ValueError: unforeseen") as caught:
        list(two.map(given))
    assert "toy_performers.py" in caught.value.__notes__[0]
    with (
        Processes(Factory(module="toy_performers", function="make_nothing"), 1) as broken,
        pytest.raises(InputError, match="no such model folder"),
    ):
        list(broken.map(given))


def test_what_a_library_prints_is_no_result(two):
    assert squares(two, units(4, says='{"result": {"y": 0}}')) == EXPECTED[:4]


SCRIPT = """
from vitcop.calibrate.work.executors import Factory, Processes
print("begun", flush=True)
units = [{"key": str(i), "x": i, "says": "said aside"} for i in range(4)]
with Processes(Factory(module="toy_performers", function="make_squares", arguments={"offset": 0}), 2) as executor:
    print(sorted(result["y"] for _, result in executor.map(units)))
"""


@pytest.mark.parametrize("by_name", [True, False])
def test_a_script_runs_once_and_has_its_output_for_itself(by_name, tmp_path):
    """A script without `if __name__ == "__main__"`, and one that has no file at all."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py" if by_name else "-"],
        input=None if by_name else SCRIPT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "begun\n[0, 1, 4, 9]\n", done.stderr
    assert done.stderr.count("said aside") == 4 and not done.stderr.replace("said aside", "").strip()


def test_one_map_at_a_time(two):
    first = two.map(units(4))
    next(first)
    with pytest.raises(RuntimeError, match="busy"):
        next(two.map(units(2)))
    first.close()
    assert squares(two, units(9)) == EXPECTED


def test_large_units(two):
    assert squares(two, units(2, padding="x" * 1_000_000)) == EXPECTED[:2]


def test_environments():
    factory = Factory(module="os", function="getenvb", arguments={})
    with pytest.raises(InputError, match="workers: expected at least 1, found 0"):
        Processes(factory, 0)
    with Processes(SQUARES, 2, environments=[{"A": "1"}, {"A": "2"}]) as executor:
        pids = {result["process"] for _, result in executor.map(units(40))}
        found = {
            dict(item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item)["A"]
            for pid in pids
        }
    assert found <= {"1", "2"} and len(found) == len(pids)


def test_opening():
    assert isinstance(open_executor("local", SQUARES), InProcess)
    with open_executor("local", SQUARES, num_workers=2) as executor:
        assert isinstance(executor, Processes) and squares(executor, units(9)) == EXPECTED
    with pytest.raises(InputError, match="executor 'slurm' is not known; use local or ray"):
        open_executor("slurm", SQUARES)


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b,6")
    seen = []
    monkeypatch.setattr(opening, "Processes", lambda *given, environments: seen.append(environments))
    open_executor("local", SQUARES, num_workers=2, device="cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    open_executor("local", SQUARES, num_workers=3, device="cuda")
    open_executor("local", SQUARES, num_workers=9, device="cpu")
    assert [[item["CUDA_VISIBLE_DEVICES"] for item in run] for run in seen] == [["4", "GPU-b"], ["0", "1", "2"], []]
    with pytest.raises(InputError, match="workers: 4 are more than the 3 GPUs of this machine"):
        open_executor("local", SQUARES, num_workers=4, device="cuda")


BEATING = """
import sys
from vitcop.calibrate.work.executors import opening
from vitcop.calibrate.work.executors import Factory, Processes
units = [{"key": name, "x": 1, "beats": name} for name in sys.argv[1:]]
try:
    with Processes(Factory(module="toy_performers", function="make_squares", arguments={"offset": 0}), 2) as executor:
        list(executor.map(units))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(sent, tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    child = subprocess.Popen(
        [*HEEDING_INTERRUPTS, sys.executable, "-c", BEATING, *map(str, files)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with child:
        deadline = time.monotonic() + 60
        while not all(file.exists() for file in files):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
        # A terminal sends an interrupt to the whole group.
        (os.killpg if sent == signal.SIGINT else os.kill)(child.pid, sent)
        assert child.wait(timeout=30) == (130 if sent == signal.SIGINT else -signal.SIGKILL)
        # The pipe ends when the last worker has: they inherited it.
        assert child.stderr.read() == ""
    before = [file.read_text() for file in files]
    time.sleep(0.2)
    assert [file.read_text() for file in files] == before


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"pip install 'vitcop\[ray\]'"):
        open_executor("ray", SQUARES)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_ray(tmp_path, capfd):
    """One test, since a local Ray takes seconds to start."""
    with pytest.raises(MissingError, match="Ray at 127.0.0.1:1 cannot be used"):
        Ray(SQUARES, 1, address="127.0.0.1:1")
    handler = signal.getsignal(signal.SIGTERM)
    with Ray(SQUARES, 2, retries=1) as executor:
        found = dict(executor.map(units(9)))
        assert [found[i]["y"] for i in range(9)] == EXPECTED and found[0]["pair"] == [1, 2]
        assert os.getpid() not in {result["process"] for result in found.values()}
        given = units(4)
        given[1]["die_once"] = str(tmp_path / "died")
        assert squares(executor, given) == EXPECTED[:4]
        given[1] |= {"die_once": None, "raises": "InputError"}
        with pytest.raises(InputError, match="^sample 3: no such image$"):
            list(executor.map(given))
        given[1] = {**units(2)[1], "die": True}
        with pytest.raises(MissingError, match="unit square u1: 2 Ray actors died at it"):
            list(executor.map(given))
        assert squares(executor, units(9)) == EXPECTED, "the executor goes on"
        with pytest.raises(MissingError, match="the Ray cluster has no GPU"):
            Ray(SQUARES, gpus=True)
    assert signal.getsignal(signal.SIGTERM) is handler
    import ray

    assert not ray.is_initialized()
    assert capfd.readouterr().out == "", "standard output belongs to results"
