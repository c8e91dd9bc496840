"""engine.json against machines that never were: what differs is said; and which of several engines is taken."""

import json
from dataclasses import replace

import pytest

from vitcop.calibrate.core.digests import sha256_of_file
from vitcop.export.bundle import GRAPHS
from vitcop.export.runtimes.tensorrt.engines import find_engine
from vitcop.export.runtimes.tensorrt.options import TensorRtOptions
from vitcop.export.runtimes.tensorrt.sidecar import (
    MachineFacts,
    check_machine,
    check_plans,
    differences,
    read_sidecar,
    sidecar_details,
)
from vitcop.plugins.errors import InputError

HERE = MachineFacts(tensorrt="11.4.0.106", cuda="13.0", driver="580.65.06", sm="9.0", plugin_sha256=None)


def write_engine(bundle, folder, machine=HERE, **options):
    """An engine folder with plans that no TensorRT wrote; its sidecar is all that matters here."""
    folder.mkdir(parents=True)
    graphs = {}
    for part in GRAPHS:
        (folder / f"{part}.plan").write_bytes(part.encode())
        graphs[part] = {"plan": f"{part}.plan", "sha256": sha256_of_file(folder / f"{part}.plan")}
    inputs = {
        "schedule": bundle.manifest.schedule_hash,
        "graphs": {part: bundle.graph_hash(part) for part in GRAPHS},
        "weights": {record.name: record.sha256 for record in bundle.manifest.weights.files},
        "options": TensorRtOptions.of(options).for_key(),
    }
    schedule = json.loads(bundle.schedule.to_json())
    details = sidecar_details(machine, schedule=schedule, graphs=graphs, kv={"form": "plain", "capacities": []})
    sidecar = {"schema_version": 1, "target": "tensorrt", "key": folder.name, "inputs": inputs, **details}
    (folder / "engine.json").write_text(json.dumps(sidecar))
    return sidecar


@pytest.fixture
def own(bundle, tmp_path):
    """The bundle with an empty place for engines."""
    from vitcop.export.bundle import Bundle

    for path in bundle.path.iterdir():
        if path.is_file():
            (tmp_path / path.name).hardlink_to(path)
    return Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensorrt": "11.5.0.1"}, "TensorRT: built with 11.4.0.106, here 11.5.0.1 .build with version_compatible"),
        ({"sm": "8.9"}, "SM.: built with 9.0, here 8.9"),
        ({"cuda": "12.8"}, "CUDA: built with 13.0, here 12.8"),
        ({"driver": "570.1"}, "driver: built with 580.65.06, here 570.1, which is older"),
        ({"tensorrt": "10.16.1.11", "sm": "12.0"}, "TensorRT: .*; compute capability"),
    ],
)
def test_what_differs_is_said(own, change, words):
    folder = own.engines_folder / "tensorrt" / "a"
    sidecar = write_engine(own, folder)
    with pytest.raises(InputError, match=words) as refused:
        check_machine(sidecar, replace(HERE, **change), folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(InputError, match=words):
        find_engine(own, TensorRtOptions(), replace(HERE, **change))


def test_what_does_not_matter_passes(own):
    sidecar = write_engine(own, own.engines_folder / "tensorrt" / "a")
    for change in ({}, {"driver": "590.1"}, {"driver": "unknown"}, {"cuda": "13.2"}, {"plugin_sha256": "0" * 64}):
        assert differences(sidecar, replace(HERE, **change)) == []


def test_compatibility_widens_what_fits(own):
    home = own.engines_folder / "tensorrt"
    newer = replace(HERE, tensorrt="11.5.0.1")
    sidecar = write_engine(own, home / "a", version_compatible=True)
    assert differences(sidecar, newer) == []
    assert len(differences(sidecar, replace(HERE, tensorrt="11.3.0.1"))) == 1
    assert len(differences(sidecar, replace(HERE, tensorrt="12.0"))) == 1
    sidecar = write_engine(own, home / "b", hardware_compatibility="ampere_plus")
    assert differences(sidecar, replace(HERE, sm="12.0")) == [] and differences(sidecar, replace(HERE, sm="7.5"))


def test_the_plugin_library_has_to_be_the_one_it_was_built_with(own):
    home = own.engines_folder / "tensorrt"
    built = replace(HERE, plugin_sha256="a" * 64)
    sidecar = write_engine(own, home / "a", built)
    assert differences(sidecar, built) == []
    assert (
        "built with sha256 aaaaaaaaaaaa…, here bbbbbbbbbbbb"
        in differences(sidecar, replace(HERE, plugin_sha256="b" * 64))[0]
    )
    assert "here no library" in differences(sidecar, HERE)[0]
    assert differences(write_engine(own, home / "b", built, serialize_plugin=True, version_compatible=True), HERE) == []


def test_a_changed_plan_and_a_broken_sidecar_are_refused(own):
    folder = own.engines_folder / "tensorrt" / "a"
    sidecar = write_engine(own, folder)
    check_plans(sidecar, folder)
    (folder / "prefill.plan").write_bytes(b"another")
    with pytest.raises(InputError, match="prefill.plan: changed since the build"):
        find_engine(own, TensorRtOptions(), HERE)
    for text in ("{", "[]", '{"schema_version": 2, "target": "tensorrt"}'):
        (folder / "engine.json").write_text(text)
        with pytest.raises(InputError, match="build the engine again"):
            read_sidecar(folder)


def test_which_engine_is_taken(own):
    home = own.engines_folder / "tensorrt"
    with pytest.raises(InputError, match="no TensorRT engine is built; run: vitcop build"):
        find_engine(own, TensorRtOptions(), HERE)
    write_engine(own, home / "a", max_batch=2)
    assert find_engine(own, TensorRtOptions(), HERE)[0] == home / "a"
    write_engine(own, home / "b", max_batch=4)
    with pytest.raises(InputError, match="2 built engines fit; say which by --option max_batch"):
        find_engine(own, TensorRtOptions(), HERE)
    assert find_engine(own, TensorRtOptions.of({"max_batch": 4}), HERE)[0] == home / "b"
    with pytest.raises(InputError, match="no TensorRT engine is built with max_batch=8"):
        find_engine(own, TensorRtOptions.of({"max_batch": 8}), HERE)


def test_a_broken_neighbour_does_not_keep_an_engine_from_running(own):
    home = own.engines_folder / "tensorrt"
    (home / "0").mkdir(parents=True)
    (home / "0" / "engine.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        find_engine(own, TensorRtOptions(), HERE)
    write_engine(own, home / "a")
    assert find_engine(own, TensorRtOptions(), HERE)[0] == home / "a"


def test_an_engine_of_other_graphs_is_not_taken(own):
    folder = own.engines_folder / "tensorrt" / "a"
    sidecar = write_engine(own, folder)
    sidecar["inputs"]["graphs"]["prefill"] = "0" * 64
    (folder / "engine.json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match="of other graphs or weights"):
        find_engine(own, TensorRtOptions(), HERE)
