"""The embedded model: its checkpoint is sound and looks at its images, and its generator is reproducible."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from road_project import environment, vitcop

pytest.importorskip("sklearn", reason="the handwritten digits come from scikit-learn (extra `demo`)")

SHAPES = Path(__file__).parents[2] / "examples" / "shapes_vqa"
SPLITS = {"calibration": 16, "selection": 24, "evaluation": 60}


def script(name: str, *args: object) -> str:
    """Run a script of the example; returns its stdout."""
    call = [sys.executable, SHAPES / name, *map(str, args)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A small generated set."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    script("generate.py", "--out", folder, *(item for name, count in SPLITS.items() for item in (f"--{name}", count)))
    return folder


def images_of(data: Path, split: str) -> set[str]:
    """sha256 of each image of a split."""
    rows = [json.loads(line) for line in (data / f"{split}.jsonl").read_text().splitlines()]
    return {hashlib.sha256((data / row["images"][0]).read_bytes()).hexdigest() for row in rows}


def check_apart(data: Path) -> None:
    found = [images_of(data, split) for split in SPLITS]
    assert all(found) and sum(map(len, found)) == len(set.union(*found))
    assert len(list((data / "images").iterdir())) == sum(map(len, found))


def test_generator_gives_the_same_bytes_twice(data, tmp_path):
    counts = [item for name, count in SPLITS.items() for item in (f"--{name}", count)]
    script("generate.py", "--out", tmp_path / "again", *counts)

    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    assert content(data) == content(tmp_path / "again")
    for name, count in SPLITS.items():
        assert len((data / f"{name}.jsonl").read_text().splitlines()) == count


def test_splits_share_no_image(data):
    check_apart(data)


def test_checkpoint_is_small():
    assert (SHAPES / "model" / "model.safetensors").stat().st_size <= 16e6


def test_accuracy_comes_from_the_image(data):
    table = script("evaluate.py", "--data", data)
    cells = re.search(r"^\| all \| (\d+) \| +([\d.]+) ± [\d.]+ \| +([\d.]+) ±", table, re.MULTILINE).groups()
    count, seeing, blind = int(cells[0]), float(cells[1]), float(cells[2])
    assert count == SPLITS["evaluation"]
    assert seeing > 80
    assert blind < seeing - 25


@pytest.mark.slow
def test_default_splits_share_no_image(tmp_path):
    script("generate.py", "--out", tmp_path / "data")
    check_apart(tmp_path / "data")


@pytest.mark.slow
def test_pruned_engine_sees_the_color_of_the_circle(data, tmp_path):
    """The paper's schedule at a third of the tokens, through the command line."""
    bundle, asked = tmp_path / "bundle", "what color is the circle?"
    done = vitcop("export", SHAPES / "model", "--schedule", "paper-1/3", "-o", bundle)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (data / "evaluation.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["prompt"] == asked)
    done = vitcop("generate", bundle, "--image", data / row["images"][0], "--prompt", asked, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["text"] == row["answer"]
    assert told["finished"] is True
    first, *groups = told["visual_tokens"]
    assert first == 144 and len(groups) == 3 and groups == sorted(groups, reverse=True) and groups[0] < first
