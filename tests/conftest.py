"""Which warnings are errors; how the tests are shared out where several processes run them (`pytest -n 2`): what shares
costly fixtures stays in one process; and the models and bundles that several folders share."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import pinned_releases
import pytest

# Read by torch when it is imported, here and in the processes that tests start. torch.export remembers the shapes that
# operators gave, which costs a sixth of an export where a model has three layers, and nothing where it has sixteen. The
# graphs are the same.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

# Digests of large files are remembered there. Nothing of a test reaches the user's own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vitcop-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

HERE = Path(__file__).parent
BY_FILE = ("", "plugins", "calibrate", "pipeline", "families")
"""Folders whose files share nothing that is costly to make."""
BY_SUBJECT = ("test_family_parity", "test_family_observation")
"""Files whose parameters share nothing."""
TOGETHER = {"tensorrt_engines": "tensorrt", "tensorrt_graphs": "tensorrt"}
"""Folders that share `wide_bundle`."""
LONGEST_FIRST = ("road", "export", "tensorrt", "tensorrt_llm", "test_family_parity", "test_benchmarks_smoke")
"""Groups, or the first word of their names, that take longest. Those of a few seconds fill the end, so that no process
waits long for the last one."""

THIRD_PARTY = (
    "error",
    # torch's own tree specs, when transformers outputs are copied under torch.export.
    "ignore:.*LeafSpec.*is deprecated:FutureWarning",
)
"""With the pinned releases nothing warns but what stands here. Others may; pyproject.toml has what holds for all."""


def pytest_configure(config: pytest.Config) -> None:
    if not pinned_releases.differing():
        for line in THIRD_PARTY:
            config.addinivalue_line("filterwarnings", line)


def pytest_report_header() -> str:
    others = pinned_releases.differing()
    if not others:
        return "releases: those of constraints.txt; a warning of any package is an error"
    named = ", ".join(f"{name} {version}" for name, version in others.items())
    return f"releases: not those of constraints.txt ({named}); warnings of other packages are printed"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler of our own for `--dist loadgroup`, whose marks pytest-xdist 3.8 loses under pytest 9.2."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    # In the order of collection; else the groups of most tests would come first, which are short.
    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(group_of(item.nodeid)))


def group_of(nodeid: str) -> str:
    """The name under which a test is kept together with others: its folder, its file, or its parametrized subject."""
    file, _, test = nodeid.partition("::")
    path = PurePosixPath(file)
    folder = "/".join(path.parts[1:-1])
    if path.stem in BY_SUBJECT and "[" in test:
        return f"{path.stem} {test.partition('[')[2].rstrip(']')}"
    return path.stem if folder in BY_FILE else TOGETHER.get(folder, folder)


def rank_of(group: str) -> int:
    """The place of a group among LONGEST_FIRST."""
    name = group.partition(" ")[0]
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.fixture(scope="session")
def half_model(tmp_path_factory) -> Path:
    """A tiny model of three layers saved in fp16."""
    from tiny_models import build_tiny_llava

    return build_tiny_llava(tmp_path_factory.mktemp("half") / "m16", layers=3, vision_layers=2, dtype="float16")


@pytest.fixture(scope="session")
def wide_model(half_model, tmp_path_factory) -> Path:
    """The same weights saved in fp32."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("wide") / "m32"
    shutil.copytree(half_model, folder)
    tensors = {name: tensor.float() for name, tensor in load_file(half_model / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps(json.loads((folder / "config.json").read_text())).replace('"float16"', '"float32"')
    (folder / "config.json").write_text(config)
    return folder


@pytest.fixture(scope="session")
def wide_bundle(wide_model):
    """Its bundle: a vision stage with clusters, a merge and a selection, so three layer groups; weights in it. Engines
    may be built into it; its graphs and weights are not to be changed."""
    from tensorrt_checks import checked

    sys.path.insert(0, str(HERE / "export"))
    from export_cases import PAPER

    from vitcop.export.bundle import Bundle
    from vitcop.export.compile import export_bundle

    return checked(Bundle.open(export_bundle(wide_model, PAPER, wide_model.parent / "b32", copy_weights=True)))
