"""A micro model, its samples and a recipe on disk, run once through the real command line; bundles exported once.

What is run or exported costs seconds, so everything here lives as long as the session. Tests that change files take a
copy.
"""

import json
from pathlib import Path

import pytest
from road_project import Finished, Project, vitcop, write_project
from tensorrt_checks import checked
from tiny_models import build_tiny_llava

from vitcop.export.bundle import Bundle


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """model/, data/ and recipe.yaml."""
    root = tmp_path_factory.mktemp("road")
    build_tiny_llava(root / "model", layers=2, vision_layers=2)
    return write_project(root)


@pytest.fixture(scope="session")
def finished(project) -> Finished:
    """The recipe, run once from end to end without interruption. Not to be changed."""
    out = project.root / "straight"
    done = vitcop("run", project.recipe, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    return Finished(out=out, told=json.loads(done.stdout), stderr=done.stderr)


@pytest.fixture(scope="session")
def plain(project) -> Path:
    """The bundle of the model as it is, with its weights copied. Not to be changed."""
    bundle = project.root / "plain"
    done = vitcop("export", project.model, "--schedule", "none", "-o", bundle, "--copy-weights")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"bundle: {bundle}\n"
    return checked(Bundle.open(bundle)).path
