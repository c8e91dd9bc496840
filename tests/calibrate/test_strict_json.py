"""Reading JSON by annotations: what is taken, and the one line that refuses the rest."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from vitcop.calibrate.core.strict_json import check_fields, parse, plain, read, read_object, read_text, versioned
from vitcop.plugins.errors import InputError


@dataclass(frozen=True)
class Leaf:
    share: float
    name: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.share > 1:
            raise InputError(f"share: {self.share} is above 1")


@dataclass(frozen=True)
class Tree:
    count: int
    ratio: tuple[int, int]
    leaves: tuple[Leaf, ...] = ()
    best: Leaf | None = None
    tables: dict[str, list[float]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    on: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


TREE = Tree(
    count=3,
    ratio=(1, 2),
    leaves=(Leaf(0.5), Leaf(1, "b")),
    best=Leaf(0.25),
    tables={"x": [1.0, 2]},
    files=(Path("a/b"),),
    facts={"any": [1, None, {"deep": True}]},
)


def data(**changes: Any) -> dict[str, Any]:
    return plain(asdict(TREE) | {"files": ["a/b"]}) | changes


def test_round_trip() -> None:
    assert read(Tree, data()) == TREE
    assert type(read(Tree, data()).leaves[1].share) is int, "a number stays as it stands in the file"
    assert read(Tree, {"count": 0, "ratio": [0, 1]}) == Tree(count=0, ratio=(0, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": 1}, "unknown key 'colour' (known: count, ratio, leaves, best, tables, files, on, facts)"),
        ({"count": True}, "count: expected an integer, found True"),
        ({"count": 3.0}, "count: expected an integer, found 3.0"),
        ({"ratio": [1, 2, 3]}, "ratio: expected a list of 2, found [1, 2, 3]"),
        ({"ratio": "12"}, "ratio: expected a list, found '12'"),
        ({"leaves": [{"share": 0.5}, {"name": "a"}]}, "leaves[1]: missing key 'share'"),
        ({"leaves": [{"share": 2}]}, "leaves[0].share: 2 is above 1"),
        ({"leaves": [{"share": "1"}]}, "leaves[0].share: expected a number, found '1'"),
        ({"best": {"share": 1, "name": "c"}}, "best.name: 'c' is not one of a, b"),
        ({"best": {"share": 1, "name": True}}, "best.name: True is not one of a, b"),
        ({"best": 1}, "best: expected an object, found 1"),
        ({"tables": {"x": [None]}}, "tables.x[0]: expected a number, found None"),
        ({"files": [1]}, "files[0]: expected a text, found 1"),
        ({"on": 1}, "on: expected true or false, found 1"),
    ],
)
def test_refusals_name_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(Tree, data(**changes))
    assert str(caught.value) == said
    with pytest.raises(InputError) as caught:
        parse(Tree, json.dumps(data(**changes, schema_version=4)), "t.json", version=4)
    assert str(caught.value) == f"t.json: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not readable as JSON"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("[" * 100_000, "brackets nested too deep"),
        ("[]", "expected a JSON object, found a list"),
        ("{}", "schema_version None is not known here (this vitcop reads 4); do it again"),
        ('{"schema_version": true}', "schema_version True is not known"),
        ('{"schema_version": 5}', "schema_version 5 is not known"),
    ],
)
def test_text_that_is_no_file_of_ours(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        versioned(text, "t.json", 4, "do it again")
    assert said in str(caught.value) and str(caught.value).startswith("t.json: ") and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: no such file$"):
        read_text(tmp_path / "gone.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    for path in (tmp_path, tmp_path / "latin.json"):
        with pytest.raises(InputError, match=f"^{path}: cannot be read"):
            read_object(path)


def test_what_is_made_in_python_is_held_to_its_annotations() -> None:
    check_fields(TREE)
    for changes in ({"ratio": [1, 2]}, {"best": {"share": 1}}, {"leaves": ({"share": 1},)}, {"files": ("a",)}):
        with pytest.raises(InputError, match=f"^{next(iter(changes))}: expected what "):
            check_fields(Tree(**{"count": 1, "ratio": (1, 2)} | changes))
