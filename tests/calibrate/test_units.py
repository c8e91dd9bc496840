"""Units of a calibration: the same results from workers as from here, kept on disk as they come."""

import json
import math
import os
import shutil
from dataclasses import replace

import pytest
from made_samples import write_samples

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.strict_json import read
from vitcop.calibrate.data.samples import Sample, load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.work.executors import Factory, InProcess, Processes
from vitcop.calibrate.work.executors.outcomes import Answering, result_of
from vitcop.calibrate.work.job import Job
from vitcop.calibrate.work.performing import perform_all, stored_as, unit
from vitcop.calibrate.work.sharding import perform_shard, take_in
from vitcop.calibrate.work.shards import PartialTable, Shard, merge, partial_files
from vitcop.calibrate.work.torch_threads import torch_threads
from vitcop.calibrate.work.units import CalibrationPerformer, losses_of, losses_unit, make_performer, targets_unit
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

SETTINGS = CalibrationSettings(batch_size=4, max_new_tokens=2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    samples = load_samples(write_samples(tmp_path_factory.mktemp("samples"), 8, 5))
    return [samples[:4], samples[4:]]


def job_of(tiny, parts, folder=None, **changes):
    return Job.of(tiny.checkpoint, SETTINGS, parts, store=Store(folder), **changes)


def schedules():
    drops = [preset(name, 4, 16) for name in ("none", "paper-1/3", "paper-2/9", "paper-1/9")]
    return [*drops, *(replace(drop, vision=None, drops=drop.drops[1:]) for drop in drops[1:])]


def units_of(job):
    return [
        losses_unit(job.base, schedule, digest, answers=index == 1)
        for schedule in schedules()
        for index, digest in enumerate(job.parts)
    ]


@pytest.fixture(scope="module")
def expected(tiny, parts, tmp_path_factory):
    """What this process finds, and where it keeps it."""
    folder = tmp_path_factory.mktemp("expected")
    job = job_of(tiny, parts, folder)
    with InProcess(job.factory()) as executor:
        return perform_all(executor, units_of(job), store=job.store), folder


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_unit_measures_what_the_evaluator_does(tiny, parts, expected):
    job = job_of(tiny, parts)
    evaluator = Evaluator(
        tiny.model,
        tiny.processor,
        tiny.family,
        eos_ids=tiny.checkpoint.eos_ids,
        base=[],
        settings=SETTINGS,
        store=Store(None),
    )
    performer = CalibrationPerformer(evaluator, dict(job.parts), 1)
    for given, result in list(zip(units_of(job), expected[0], strict=True))[:6]:
        schedule = Schedule.from_json(json.dumps(given["schedule"]))
        losses = evaluator.measure(schedule, performer.part(given["part"]), answers=given["answers"])
        assert losses_of(result) == losses
    counted = performer.perform(targets_unit(job.base, next(iter(job.parts))))
    assert counted["visual"] == [16] * 4 and len(counted["text"]) == 4 < min(counted["text"])
    assert max(max(losses_of(result).kl) for result in expected[0]) > 0.01


def test_workers_find_the_same(tiny, parts, expected, tmp_path):
    job = job_of(tiny, parts, tmp_path)
    with Processes(job.factory(), 2) as executor:
        assert perform_all(executor, units_of(job), store=job.store) == expected[0]
    assert files_of(tmp_path) == files_of(expected[1]), "the stores are equal byte for byte"


def test_shards_find_the_same(tiny, parts, expected, tmp_path):
    sets = {"calibration": parts[0], "selection": parts[1]}
    tables = []
    for index in (1, 2, 3):
        job = job_of(tiny, parts, tmp_path / str(index))
        facts = job.run_facts(seed=0, sets=sets)
        with InProcess(job.factory()) as executor:
            table = perform_shard(executor, units_of(job), Shard(index, 3), run=facts, store=job.store)
        tables.append(PartialTable.from_json(table.to_json(), source=f"{index}.json"))
    job = job_of(tiny, parts, tmp_path / "merged")
    with pytest.raises(InputError, match="shards 2/3 are missing"):
        take_in(merge([tables[2], tables[0]]), units_of(job), run=facts, store=job.store)
    other = job.run_facts(seed=1, sets=sets)
    with pytest.raises(InputError, match="^this run and 1.json are of different runs: seed is 1 in the one and 0"):
        take_in(merge(tables), units_of(job), run=other, store=job.store)
    assert not (tmp_path / "merged").exists()
    take_in(merge(tables), units_of(job), run=facts, store=job.store)
    nobody = InProcess(Factory(module="toy_performers", function="make_nothing"))
    assert perform_all(nobody, units_of(job), store=job.store) == expected[0]


def test_what_was_found_is_not_performed_again(tiny, parts, expected, tmp_path):
    folder = shutil.copytree(expected[1], tmp_path / "store")
    job = job_of(tiny, parts, folder)
    units = units_of(job)
    (folder / f"{stored_as(units[3]['key'])}.json").write_text("{")
    (folder / f"{stored_as(units[5]['key'])}.json").unlink()

    class Counted(InProcess):
        asked = 0

        def map(self, units):
            self.asked += len(units)
            return super().map(units)

    with Counted(job.factory()) as executor:
        assert perform_all(executor, [*units, units[5]], store=job.store) == [*expected[0], expected[0][5]]
        assert executor.asked == 2
    assert files_of(folder) == files_of(expected[1])


def test_workers_keep_what_they_find(tmp_path):
    """Also what nobody hears of: the parent stops listening after the first result."""
    (tmp_path / "notes").mkdir()
    arguments = {"notes": str(tmp_path / "notes"), "store": str(tmp_path / "store")}
    factory = Factory(module="toy_performers", function="make_slow", arguments=arguments)
    units = [unit("slow", "base", x=i) for i in range(12)]
    with Processes(factory, 2) as executor:
        running = executor.map(units)
        next(running)
        running.close()
        done = [line for file in (tmp_path / "notes").iterdir() for line in file.read_text().split()]
        results = perform_all(executor, units, store=Store(tmp_path / "store"))
    assert [result["y"] for result in results] == [i**2 for i in range(12)]
    noted = [line for file in (tmp_path / "notes").iterdir() for line in file.read_text().split()]
    assert 1 <= len(done) <= 3 and set(noted) == {item["key"] for item in units}
    assert len(noted) - 12 <= 2, "at most what was in flight is performed twice"


def test_keys_follow_from_what_results_depend_on(tiny, parts, tmp_path):
    job = job_of(tiny, parts)
    keys = [item["key"] for item in units_of(job)]
    assert len(set(keys)) == len(keys)
    copy = shutil.copytree(tiny.folder, tmp_path / tiny.folder.name)
    os.utime(copy / "model.safetensors", ns=(1, 1))
    same = Job.of(Checkpoint.open(copy), SETTINGS, parts)
    assert [item["key"] for item in units_of(same)] == keys, "a copy of the model is the same model"
    other = (job_of(tiny, parts, threads=2), Job.of(tiny.checkpoint, replace(SETTINGS, batch_size=2), parts))
    for changed in other:
        assert not {item["key"] for item in units_of(changed)} & set(keys)
    schedule = schedules()[1]
    named = replace(schedule, model_id="x", provenance={"a": 1})
    assert losses_unit(job.base, named, "d")["key"] == losses_unit(job.base, schedule, "d")["key"]
    searched = Job.of(tiny.checkpoint, replace(SETTINGS, finalists=9), parts)
    assert [item["key"] for item in units_of(searched)] == keys, "how hard to search changes no measurement"


def test_samples_cross_as_they_are(parts):
    data = json.loads(json.dumps([sample.to_json() for sample in parts[0]]))
    assert read(list[Sample], data) == [
        replace(item, images=tuple(path.resolve() for path in item.images)) for item in parts[0]
    ]


def test_a_worker_with_other_inputs_refuses(tiny, parts, tmp_path):
    arguments = job_of(tiny, parts).factory().arguments
    with pytest.raises(InputError, match="not the weights that the run began with"):
        make_performer(**{**arguments, "fingerprint": "0"})
    other = {**arguments["base"], "versions": {**arguments["base"]["versions"], "torch": "1.0"}}
    with pytest.raises(InputError, match="a worker has torch .*, the run began with 1.0"):
        make_performer(**{**arguments, "base": other})
    older = {**arguments["base"], "op_revisions": {**REVISIONS, "ClusterMergePlan": 1}}
    with pytest.raises(InputError, match="a worker has other revisions of vitcop's ops"):
        make_performer(**{**arguments, "base": older})
    samples = load_samples(write_samples(tmp_path, 2, 6))
    job = job_of(tiny, [samples])
    (tmp_path / "s1.png").write_bytes((tmp_path / "s0.png").read_bytes())
    with pytest.raises(InputError, match="sample s1: its images are not what they were"):
        next(InProcess(job.factory()).map([targets_unit(job.base, next(iter(job.parts)))]))
    (tmp_path / "s0.png").unlink()
    with pytest.raises(InputError, match="sample s0: cannot read .*s0.png"):
        next(InProcess(job.factory()).map([targets_unit(job.base, next(iter(job.parts)))]))


INFINITE = Losses(ids=("a", "b"), kl=(math.inf, 0.5), top1=(0.25, 1.0), exact=(None, True), score=(None, 0.75))
"""One sample whose logits were not finite."""


class Overflows:
    """Measures infinite losses."""

    def perform(self, unit):
        return INFINITE.to_json()


def test_an_infinite_loss_through_stores_workers_and_shards(tmp_path):
    """JSON lacks infinity: whatever carries the loss is JSON that any reader takes, and gives it back."""
    store, units = Store(tmp_path), [{"key": "k"}]
    table = perform_shard(InProcess(Overflows()), units, Shard(1, 1), run={}, store=store)
    table.save(tmp_path / "table" / table.shards[0].file_name)
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 2
    for file in files:
        text = file.read_text()
        assert "null" in text and json.loads(text, parse_constant=pytest.fail)
    (found,) = perform_all(InProcess(Factory(module="toy_performers", function="make_nothing")), units, store=store)
    worker = Answering(Factory(module=__name__, function="Overflows").to_text())
    assert losses_of(found) == losses_of(result_of(worker.perform(json.dumps(units[0])))) == INFINITE
    (path,) = partial_files([tmp_path / "table"])
    read = PartialTable.load(path)
    assert read == table and losses_of(read.results["k"]) == INFINITE
    assert read.joined(table).to_json() == table.to_json()


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_no_file_takes_what_is_not_json(tmp_path, number):
    table = PartialTable(run={}, units=("k",), shards=(Shard(1, 1),), results={"k": {"kl": [number]}})
    store = Store(tmp_path)
    for write in (table.to_json, lambda: store.put("k", number), lambda: unit("losses", None, kl=number)):
        with pytest.raises(ValueError, match="JSON compliant"):
            write()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "k.json").write_text(json.dumps(number))
    assert store.get("k") is None, "of an earlier release: measured again"
    with pytest.raises(InputError, match=r"^old\.json: not readable as JSON \(.* is not JSON\)"):
        PartialTable.from_json(json.dumps({"schema_version": 1, "results": {"k": number}}), source="old.json")


def test_threads_come_back():
    import torch

    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
