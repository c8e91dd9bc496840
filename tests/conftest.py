"""How the tests are shared out where several processes run them (`pytest -n 2 --dist loadgroup`): what shares costly
fixtures stays in one process."""

import os
from pathlib import Path

import pytest

# Read by torch when it is imported, here and in the processes that tests start. torch.export remembers the shapes that
# operators gave, which costs a sixth of an export where a model has three layers, and nothing where it has sixteen. The
# graphs are the same.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

HERE = Path(__file__).parent
BY_FILE = ("plugins", "calibrate", "pipeline")
"""Folders whose files share nothing that is costly to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item: pytest.Item) -> str:
    """The name under which an item is kept together with others: its folder, its file, or its parametrized subject."""
    folder = item.path.parent.relative_to(HERE).as_posix()
    subject = getattr(item, "callspec", None)
    if folder == "families" and subject is not None and "subject" in subject.params:
        return f"families-{getattr(subject.params['subject'], 'name', subject.params['subject'])}"
    return f"{folder}-{item.path.stem}" if folder in (*BY_FILE, ".", "families") else folder
