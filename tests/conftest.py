"""How the tests are shared out where several processes run them (`pytest -n 2`): what shares costly fixtures stays in
one process."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

# Read by torch when it is imported, here and in the processes that tests start. torch.export remembers the shapes that
# operators gave, which costs a sixth of an export where a model has three layers, and nothing where it has sixteen. The
# graphs are the same.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

HERE = Path(__file__).parent
BY_FILE = ("", "plugins", "calibrate", "pipeline", "families")
"""Folders whose files share nothing that is costly to make."""
BY_SUBJECT = ("test_family_parity", "test_family_observation")
"""Files whose parameters share nothing."""
LONGEST_FIRST = (
    "road",
    "export",
    "tensorrt_graphs",
    "tensorrt_engines",
    "tensorrt_llm",
    "test_family_parity",
    "test_benchmarks_smoke",
)
"""Groups, or the first word of their names, that take longest. Those of a few seconds fill the end, so that no process
waits long for the last one."""


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
    return path.stem if folder in BY_FILE else folder


def rank_of(group: str) -> int:
    """The place of a group among LONGEST_FIRST."""
    name = group.partition(" ")[0]
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)
