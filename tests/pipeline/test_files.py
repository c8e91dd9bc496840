"""Files that appear whole, JSON for any reader, progress that suits its reader."""

import io
import json
import os
import subprocess
import sys

import pytest

from vitcop.calibrate.core.partial import discard_leftovers, partial_path, publish, written_whole
from vitcop.calibrate.core.store import Store
from vitcop.pipeline.console import Console, PlainProgress, dump_json
from vitcop.pipeline.workspace import Workspace
from vitcop.plugins.errors import InputError


def test_written_whole_or_not_at_all(tmp_path):
    final = tmp_path / "x.json"
    final.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(final) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert final.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["x.json"]
    with written_whole(final) as partial:
        partial.write_text("new")
    assert final.read_text() == "new"


def test_temporary_names_are_of_one_process(tmp_path):
    """Another process that writes the same file keeps its own; what a killed one left is removed."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    final = tmp_path / "x.json"
    alive, dead, other = (
        tmp_path / name
        for name in (f".partial-{os.getppid()}-x.json", f".partial-{ended.pid}-x.json", f".partial-{ended.pid}-y.json")
    )
    for path in (alive, dead, other):
        path.write_text("half")
    with written_whole(final) as partial:
        assert str(os.getpid()) in partial.name and partial not in (alive, dead)
        partial.write_text("new")
    assert final.read_text() == "new" and alive.exists() and other.exists() and not dead.exists()


def test_a_folder_replaces_a_folder(tmp_path):
    final = tmp_path / "b"
    for text in ("one", "two"):
        partial_path(final).mkdir()
        (partial_path(final) / text).write_text(text)
        publish(final)
        assert [path.name for path in final.iterdir()] == [text]
    partial_path(final).mkdir()
    assert discard_leftovers(tmp_path) == [partial_path(final).name]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_json_has_no_nan():
    assert json.loads(dump_json({"a": [float("nan"), float("inf"), 1.5], 2: (True, None, "ü")})) == {
        "a": [None, None, 1.5],
        "2": [True, None, "ü"],
    }


def test_plain_progress_speaks_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    progress = PlainProgress()
    progress.start(100, "calibrate")
    for _ in range(100):
        clock[0] += 1
        progress.advance()
    assert capsys.readouterr().err.splitlines() == [f"calibrate: {done}/100" for done in (20, 40, 60, 80, 100)]


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with Console().progress() as progress:
        for total, title in ((3, "first phase"), (2, "second phase")):
            progress.start(total, title)
            for _ in range(total):
                progress.advance()
    assert "second phase" in terminal.getvalue()


def test_quiet_console_says_nothing(capsys):
    console = Console(quiet=True)
    console.note("a")
    with console.progress() as progress:
        progress.start(1, "b")
        progress.advance()
    assert capsys.readouterr() == ("", "")


def test_workspace_takes_new_empty_and_own_folders(tmp_path):
    Workspace(tmp_path / "new").check()
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with Workspace(tmp_path / "empty").locked() as leftovers:
        assert leftovers == []
    Workspace(tmp_path / "empty").check()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="is a file"):
        Workspace(tmp_path / "dangling").check()


def test_what_a_killed_worker_was_writing_is_removed(tmp_path):
    kept = tmp_path / "out" / ".vitcop" / "calibrate"
    with Workspace(tmp_path / "out").locked():
        Store(kept).put("unit-1", {"y": 1})
    dying = (
        "import os, sys\nfrom vitcop.calibrate.core.store import Store\nos.replace = lambda *_: os._exit(9)\n"
        "Store(sys.argv[1]).put('unit-2', {})"
    )
    assert subprocess.run([sys.executable, "-c", dying, str(kept)]).returncode == 9
    (left,) = [file.name for file in kept.iterdir() if file.name.startswith(".")]
    with Workspace(tmp_path / "out").locked() as leftovers:
        assert leftovers == [left] and left.startswith(".unit-2.json.partial-")
    assert [file.name for file in kept.iterdir()] == ["unit-1.json"]


def test_lock_is_free_again_after_use(tmp_path):
    for _ in range(2):
        with Workspace(tmp_path / "out").locked():
            pass
