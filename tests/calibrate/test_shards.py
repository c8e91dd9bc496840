"""Shards: every unit in exactly one, and partial tables that join in any order to the same."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitcop.calibrate.work.shards import PartialTable, Shard, merge, partial_files
from vitcop.plugins.errors import InputError

RUN = {
    "model": {"name": "toy", "weights": "ab"},
    "samples": {"calibration": {"digest": "cd", "num": 8}},
    "seed": 3,
    "versions": {"torch": "2.12.0", "vitcop": "0.1.0"},
}
KEYS = tuple(f"k{i:02d}" for i in range(12))

keys = st.lists(st.text(max_size=6), max_size=40)
counts = st.integers(1, 12)


def table(*shards, count, run=RUN, units=KEYS, source=""):
    """What these shards of a run find: the result of a unit follows from its key."""
    chosen = tuple(sorted(Shard(i, count) for i in shards))
    results = {key: {"kl": [len(key), 0.1]} for shard in chosen for key in sorted(shard.share(units))}
    return PartialTable(run=run, units=units, shards=chosen, results=results, source=source)


@st.composite
def tables(draw):
    count = draw(counts)
    return table(*draw(st.sets(st.integers(1, count), min_size=1)), count=count)


@given(keys, counts)
def test_each_key_is_in_exactly_one_shard(given_keys, count):
    shares = [Shard(i, count).share(given_keys) for i in range(1, count + 1)]
    assert sorted(key for share in shares for key in share) == sorted(set(given_keys))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    shuffled = random.Random(0).sample(given_keys, len(given_keys))
    assert [Shard(i, count).share(shuffled) for i in range(1, count + 1)] == shares


@given(tables(), tables(), tables())
def test_joining_is_associative_commutative_and_idempotent(a, b, c):
    assert a.joined(b).joined(c).to_json() == a.joined(b.joined(c)).to_json()
    assert a.joined(b).to_json() == b.joined(a).to_json()
    assert a.joined(a).to_json() == a.to_json()
    whole = merge([a, b, c])
    assert merge([c, a, b, a, whole]).to_json() == whole.to_json()
    assert PartialTable.from_json(whole.to_json()) == whole


@given(st.integers(1, 9), st.randoms())
def test_all_shards_make_the_run(count, draw):
    parts = [table(i, count=count) for i in range(1, count + 1)]
    draw.shuffle(parts)
    whole = merge(parts)
    whole.check_complete()
    assert whole.results == table(1, count=1).results and whole.missing == () and whole.missing_shards == ()


def test_missing_shards_are_named():
    joined = merge([table(1, count=4), table(3, count=4)])
    with pytest.raises(InputError, match="6 of 12 units have no result: shards 2/4, 4/4 are missing"):
        joined.check_complete()


def other(**changes):
    return table(2, count=3, run={**RUN, **changes}, source="b.json")


@pytest.mark.parametrize(
    "second, reason",
    [
        (other(model={"name": "toy", "weights": "xx"}), 'model.weights is "ab" in the one and "xx" in the other'),
        (other(seed=4), "seed is 3 in the one and 4 in the other"),
        (other(samples={}), "samples.calibration is .* in the one and nothing in the other"),
        (
            other(versions={"torch": "2.12.1", "vitcop": "0.1.0"}, seed=3.5),
            "seed is 3 in the one and 3.5 in the other",
        ),
        (other(settings={"threads": 2}), 'settings is nothing in the one and {"threads": 2} in the other'),
        (
            table(2, count=3, units=KEYS[:9], source="b.json"),
            "units is a list of 12 in the one and a list of 9 in the other",
        ),
    ],
)
def test_tables_of_different_runs_are_refused(second, reason):
    first = table(1, count=3, source="a.json")
    with pytest.raises(InputError, match=f"^a.json and b.json are of different runs: {reason}"):
        first.joined(second)
    with pytest.raises(InputError, match="different runs"):
        merge([first, table(3, count=3), second])


def test_different_results_are_refused():
    first, second = table(1, 2, count=3, source="a.json"), table(2, count=3, source="b.json")
    second.results[KEYS[1]] = {"kl": [3, 0.1000001]}
    with pytest.raises(InputError, match="^a.json and b.json have different results for unit k01"):
        first.joined(second)


def test_files(tmp_path):
    parts = [table(i, count=3) for i in (1, 2, 3)]
    for part in parts:
        part.save(tmp_path / part.shards[0].file_name)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"partial-{i}-of-3.json" for i in (1, 2, 3)]
    (tmp_path / "schedule.json").write_text("{}")
    found = [PartialTable.load(file) for file in partial_files([tmp_path])]
    assert merge(found) == merge(parts)
    assert partial_files([tmp_path / "x.json"]) == [tmp_path / "x.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no partial tables"):
        partial_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="no partial tables to merge"):
        merge([])
    with pytest.raises(InputError, match="x.json: no such file"):
        PartialTable.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"schema_version": 9}, "schema_version 9 is not known"),
        ({"shards": ["5/3"]}, "shard 5/3: expected i/n"),
        ({"shards": []}, "not in order"),
        ({"units": ["k01", "k00"]}, "not in order"),
        ({"units": []}, "results of units that are not of its run"),
        ({"units": 3}, "units: expected a list"),
        ({"results": [1]}, "results: expected an object"),
        ({"run": None}, "run: expected an object"),
    ],
)
def test_broken_files(change, reason):
    text = json.dumps({**json.loads(table(1, count=3).to_json()), **change})
    with pytest.raises(InputError, match=f"^p.json: .*{reason}"):
        PartialTable.from_json(text, source="p.json")
    with pytest.raises(InputError, match="^p.json: not readable as JSON"):
        PartialTable.from_json("[" * 100_000, source="p.json")


def test_parsing():
    assert Shard.parse("2/3") == Shard(2, 3) and str(Shard(2, 3)) == "2/3"
    for wrong in ("0/3", "4/3", "1/0", "1", "1/2/3", "-1/3", "a/b", "1.0/2", "", "/", "²/3", "1/" + "9" * 30):
        with pytest.raises(InputError, match="^shard .*expected i/n with i from 1 to n"):
            Shard.parse(wrong)
