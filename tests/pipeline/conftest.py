"""Fixtures for tests of the pipeline that run no model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_project import FakeStages, write_model, write_samples

from vitcop.pipeline.cli import cli


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with model/, data/ and recipe.yaml. Its name has a space and letters beyond ASCII on purpose."""
    root = tmp_path / "mein Projekt ü"
    write_model(root / "model")
    for name in ("calibration", "selection", "evaluation"):
        write_samples(root / "data" / f"{name}.jsonl")
    (root / "recipe.yaml").write_text(
        "model: model\n"
        "data:\n"
        "  calibration: data/calibration.jsonl\n"
        "  selection: data/selection.jsonl\n"
        "  evaluation: data/evaluation.jsonl\n"
        "calibrate:\n"
        "  budget: 1/3\n"
    )
    return root


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="vitcop")

    return run


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """Fake stages, which `run` uses from now on."""
    fakes = FakeStages()
    monkeypatch.setattr("vitcop.pipeline.running.STAGES", fakes.table)
    return fakes
