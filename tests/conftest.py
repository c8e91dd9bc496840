"""Which warnings are errors; and how the tests are shared out where several processes run them (`pytest -n 2 --dist
loadgroup`): what shares costly fixtures stays in one process."""

from pathlib import Path

import pinned_releases
import pytest

HERE = Path(__file__).parent
BY_FILE = ("plugins", "calibrate", "pipeline")
"""Folders whose files share nothing that is costly to make."""

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
