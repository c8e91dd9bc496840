"""manifest.json is read strictly: every field that somebody may have changed is refused by name."""

import dataclasses
import json

import pytest
from toy_bundle import ARCHITECTURE, EMPTY, PRUNED

from vitcop.export.bundle import FileRecord, Manifest, Weights, schedule_hash
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import REVISIONS

NAMES = ("config.json", "decode.onnx", "prefill.onnx", "schedule.json", "tokenizer.model", "vision.onnx")


def make_manifest(**changes):
    values = {
        "model_id": "toy",
        "config_hash": "c" * 64,
        "family": "llava",
        "architecture": ARCHITECTURE,
        "schedule_hash": schedule_hash(PRUNED),
        "files": tuple(FileRecord(name=name, size=3, sha256="a" * 64) for name in NAMES),
        "weights": Weights(
            mode="referenced",
            folder="/models/toy",
            files=(FileRecord(name="model.safetensors", size=9, sha256="b" * 64),),
        ),
        "op_revisions": {"KNormSelect": REVISIONS["KNormSelect"]},
        "versions": {"vitcop": "0.2.0"},
        "provenance": {"seed": 1},
    }
    return Manifest(**values | changes)


def paths_of(value, path=()):
    """All places in a JSON tree that the manifest's types describe."""
    if path and path[-1] in ("op_revisions", "provenance", "versions"):
        return
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*path, key)
        if isinstance(value[key], (dict, list)):
            yield from paths_of(value[key], (*path, key))


def changed(path, to=None, *, delete=False):
    data = json.loads(make_manifest().to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    if delete:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(data)


ALL_PATHS = list(paths_of(json.loads(make_manifest().to_json())))
FIELDS = [path for path in ALL_PATHS if isinstance(path[-1], str)]


def test_round_trip_is_exact():
    manifest = make_manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert make_manifest().to_json() == manifest.to_json()


def test_the_paths_cover_every_dataclass_field():
    names = {path[-1] for path in FIELDS}
    for kind in (Manifest, Weights, FileRecord, type(ARCHITECTURE)):
        assert {item.name for item in dataclasses.fields(kind)} <= names


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_refused_by_name(path):
    with pytest.raises(InputError, match=path[-1]):
        Manifest.from_json(changed(path, delete=True))


WRONG = [(path, value) for value in (None, True, 1.5, [[]], {"x": 1}) for path in ALL_PATHS]
WRONG.remove((("provenance",), {"x": 1}))  # Provenance may hold any facts.


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_a_wrong_type_is_refused(path, value):
    with pytest.raises(InputError) as caught:
        Manifest.from_json(changed(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [(), ("architecture",), ("weights",), ("files", 0)])
def test_an_unknown_key_is_refused_by_name(path):
    with pytest.raises(InputError, match="surprise"):
        Manifest.from_json(changed((*path, "surprise"), 1))


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "..",
        "a/b.json",
        "a\\b.json",
        "/etc/x.json",
        ".hidden.json",
        "C:x.json",
        "line\nbreak.json",
        "",
        "model.bin",
        "model.pt",
        "model.pkl",
        "code.py",
        "x.npy",
        "no_suffix",
        "manifest.json",
        "config.json.pkl",
    ],
)
def test_a_file_name_that_a_bundle_never_holds(name):
    with pytest.raises(InputError):
        Manifest.from_json(changed(("files", 0, "name"), name))
    with pytest.raises(InputError):
        Manifest.from_json(changed(("weights", "files", 0, "name"), name))


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("schema_version",), 1, "schema_version 1 .*export the bundle again"),
        (("schema_version",), "1", "schema_version"),
        (("op_revisions", "KNormSelect"), 0, "revision 0 of KNormSelect, this vitcop has 1; export the bundle again"),
        (("op_revisions", "Gone"), 1, "revision 1 of Gone, this vitcop has no such op; export the bundle again"),
        (("files", 0, "name"), "vision.onnx", "twice"),
        (("files", 5, "name"), "other.onnx", "vision.onnx"),
        (("files", 0, "name"), "more.safetensors", "does not belong"),
        (("weights", "files", 0, "name"), "weights.json", "does not belong"),
        (("files", 0, "size"), -1, "impossible"),
        (("files", 0, "sha256"), "A" * 64, "impossible"),
        (("files", 0, "sha256"), "a" * 63, "impossible"),
        (("weights", "mode"), "linked", "linked"),
        (("weights", "mode"), "copied", "'.'"),
        (("weights", "folder"), "models/toy", "absolute"),
        (("weights", "folder"), "/models/../etc", "absolute"),
        (("architecture", "dtype"), "int8", "int8"),
        (("architecture", "grid"), [2, 3], "grid"),
        (("architecture", "grid"), [4], "grid"),
        (("architecture", "num_layers"), 0, "num_layers"),
    ],
)
def test_an_impossible_value_is_refused(path, value, word):
    with pytest.raises(InputError, match=word):
        Manifest.from_json(changed(path, value))


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", '{"schema_version": 1, "schema_version": 1}', '{"schema_version": NaN}']
)
def test_text_that_is_no_manifest(text):
    with pytest.raises(InputError, match="there.json"):
        Manifest.from_json(text, source="there.json")


def test_the_schedule_hash_ignores_provenance_alone():
    assert schedule_hash(dataclasses.replace(PRUNED, provenance={"found": "by hand"})) == schedule_hash(PRUNED)
    assert schedule_hash(EMPTY) != schedule_hash(PRUNED)
    drop = dataclasses.replace(PRUNED.drops[0], order="largest")
    assert schedule_hash(dataclasses.replace(PRUNED, drops=(drop,))) != schedule_hash(PRUNED)
