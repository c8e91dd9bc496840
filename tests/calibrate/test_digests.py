"""Digests: every change is noticed, and what is large is read once a machine."""

import json
import os

import pytest

from vitcop.calibrate.core import digests
from vitcop.calibrate.core.digests import hash_in_background, known_digests, known_path_digest, known_sha256


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Names of the files that were read; all are large, old, and known to nobody."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 0)
    monkeypatch.setattr(digests, "_RACY_NS", -1)
    monkeypatch.setattr(digests, "_remembered", {})
    read, found = digests.sha256_of_file, []
    monkeypatch.setattr(digests, "sha256_of_file", lambda path, *more: found.append(path.name) or read(path, *more))
    return found


def another_process():
    digests._remembered.clear()


def test_digest_of_a_folder_notices_names_and_bytes(tmp_path):
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    first = known_path_digest(folder)
    (folder / "engines").mkdir()
    (folder / "engines" / "e").write_text("3")
    (folder / ".partial-x").write_text("half")
    assert known_path_digest(folder, without=("engines",)) == first != known_path_digest(folder)
    (folder / "sub" / "b").rename(folder / "sub" / "c")
    assert known_path_digest(folder, without=("engines",)) != first
    assert known_path_digest(tmp_path / "nothing") is None


def test_a_file_is_read_once_a_machine(tmp_path, reads):
    file = tmp_path / "w"
    file.write_bytes(b"1")
    first = known_sha256(file)
    another_process()
    (tmp_path / "link").symlink_to(file)
    assert known_sha256(file) == known_sha256(tmp_path / "link") == first and reads == ["w"]
    (entry,) = (tmp_path / "cache" / "vitcop" / "digests").iterdir()
    assert json.loads(entry.read_text())["path"] == str(file) and sorted(os.listdir(tmp_path)) == ["cache", "link", "w"]


@pytest.mark.parametrize("how", ["bytes", "time", "another file", "size"])
def test_every_change_is_noticed(how, tmp_path, reads):
    file, state = tmp_path / "w", None
    file.write_bytes(b"1")
    first, state = known_sha256(file), file.stat()
    if how == "another file":
        (tmp_path / "new").write_bytes(b"2")
        (tmp_path / "new").rename(file)
    else:
        file.write_bytes({"bytes": b"2", "time": b"1", "size": b"12"}[how])
    if how != "time":
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    another_process()
    assert (known_sha256(file) == first) == (how == "time") and reads == ["w", "w"]


def test_what_is_young_or_small_is_read_again(tmp_path, reads, monkeypatch):
    file = tmp_path / "w"
    file.write_bytes(b"1")
    for name, value in (("_RACY_NS", 1 << 62), ("LARGE", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(digests, name, value)
            assert known_sha256(file) == known_sha256(file)
    assert reads == ["w"] * 4 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"path": "/else", "stamp": [1], "sha256": "0"}'])
def test_a_broken_cache_is_made_again(content, tmp_path, reads):
    file = tmp_path / "w"
    file.write_bytes(b"1")
    first = known_sha256(file)
    (entry,) = (tmp_path / "cache" / "vitcop" / "digests").iterdir()
    entry.write_text(content)
    another_process()
    assert known_sha256(file) == first and reads == ["w", "w"]
    another_process()
    assert known_sha256(file) == first and reads == ["w", "w"]


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_cache_folder_a_process_remembers(home, tmp_path, reads, monkeypatch):
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(digests.Path, "home", no_home)
    else:
        (tmp_path / "taken").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    file = tmp_path / "w"
    file.write_bytes(b"1")
    assert known_sha256(file) == known_sha256(file) and reads == ["w"]


def test_digests_taken_in_the_background_are_not_taken_again(tmp_path, reads):
    files = [tmp_path / name for name in ("a", "missing", "b")]
    for file in files[::2]:
        file.write_text(file.name)
    hash_in_background(files).join()
    known_digests(files[::2])
    assert reads == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        known_sha256(files[1])


def test_progress_counts_pieces_of_what_is_read(tmp_path, reads, monkeypatch):
    class Counted:
        said: list = []

        def start(self, total, title):
            self.said.append((total, title))

        def advance(self):
            self.said.append(1)

    monkeypatch.setattr(digests, "_PIECE", 4)
    monkeypatch.setattr(digests, "_CHUNK", 4)
    (tmp_path / "a").write_bytes(b"x" * 8)
    (tmp_path / "b").write_bytes(b"x" * 5)
    for _ in range(2):
        known_digests([tmp_path / "a", tmp_path / "b"], Counted())
    assert Counted.said[0] == (3, "reading files for their sha256") and Counted.said[1:3] == [1, 1]
    assert len(Counted.said) == 4, "the second time nothing is read"
