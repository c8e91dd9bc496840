"""The wheel as a user gets it: built from the source distribution, installed into an environment of its own away from
the repository, and used there for the demo's stages and the report."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from road_project import RECIPE

ROOT = Path(__file__).parent.parent

pytest.importorskip("sklearn", reason="the handwritten digits come from scikit-learn (extra `demo`)")


def run(*command: object, cwd: Path) -> str:
    """Its output. Neither the repository nor what the tests were told about paths is seen."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """bin/ of an environment that has the wheel, and the packages that it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    assert list((folder / "dist").glob("*.tar.gz")), "the source distribution, which the wheel was built from"
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A line of a .pth file is a folder to import from, but .pth files in that folder are not read: so the packages are
    # found, and the editable installation of vitcop is not.
    Path(packages, "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--disable-pip-version-check", wheel, cwd=folder)
    return python.parent


def test_the_wheel_runs_the_demo_and_the_report(scripts, tmp_path):
    origin = run(scripts / "python", "-c", "import vitcop.pipeline; print(vitcop.pipeline.__file__)", cwd=tmp_path)
    assert Path(origin.strip()).is_relative_to(scripts.parent)
    example = tmp_path / "demo"
    shutil.copytree(ROOT / "examples" / "shapes_vqa", example, ignore=shutil.ignore_patterns("data"))
    counts = ("--calibration", 8, "--selection", 8, "--evaluation", 8)
    run(scripts / "python", "generate.py", "--out", "data", *counts, cwd=example)
    # The demo's recipe, with as little search as there can be.
    recipe = yaml.safe_load((example / "recipe.yaml").read_text())
    recipe["calibrate"] = {"budget": "1/3", "search": yaml.safe_load(RECIPE)["calibrate"]["search"]}
    recipe["verify"]["controls"] = False
    recipe["bench"] |= {"repeats": 1, "warmup": 0, "unpruned": False}
    recipe["report"] = {"overlays": 1}
    (example / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(scripts / "vitcop", "run", "recipe.yaml", "-o", "out", cwd=example)
    report = example / "out" / "report.html"
    written = report.read_bytes()
    report.unlink()
    run(scripts / "vitcop", "report", "out", "--data", "data/evaluation.jsonl", "--overlays", 1, cwd=example)
    assert report.read_bytes() == written
