"""The house rules: imports run one way, packages are listed, light imports stay light, bare names are refused."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("plugins", "calibrate", "export", "pipeline")
"""From the ground up: a package may import from its own floor and those below."""

LIGHT = (
    "vitcop.plugins.spec",
    "vitcop.plugins.registry",
    "vitcop.plugins.errors",
    "vitcop.plugins.cuda.build",
    "vitcop.plugins.tensorrt.build",
    "vitcop.plugins.tensorrt.paths",
    "vitcop.calibrate.schedule.schedule",
    "vitcop.calibrate.schedule.latency",
    "vitcop.calibrate.schedule.presets",
    "vitcop.calibrate.models.prompt",
    "vitcop.calibrate.data.samples",
    "vitcop.calibrate.observe.observation",
    "vitcop.calibrate.observe.observation",
    "vitcop.calibrate.models.checkpoint",
    "vitcop.export.bundle",
    "vitcop.export.runtimes",
    "vitcop.pipeline",
    "vitcop.pipeline.cli",
)
HEAVY = ("torch", "transformers", "tensorrt", "onnxruntime", "matplotlib")


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_one_way(package: str) -> None:
    below = FLOORS[: FLOORS.index(package) + 1]
    for path in _sources(package):
        for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            head, _, rest = name.partition(".")
            assert head not in FLOORS, f"{path} imports {name} by its bare name"
            if head == "vitcop":
                assert rest.split(".")[0] in below, f"{path} imports {name} from a floor above"


def _imports_of_modules() -> dict[str, set[str]]:
    """The modules that each of ours imports, at its head or inside a function, or for annotations alone."""
    modules = {}
    for package in FLOORS:
        for path in _sources(package):
            name = ".".join(("vitcop", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
            modules[name] = _imported(ast.parse(path.read_text(encoding="utf-8")))
    return {
        name: {each if each in modules else each.rpartition(".")[0] for each in imported} & modules.keys() - {name}
        for name, imported in modules.items()
    }


def test_no_import_cycle_between_files() -> None:
    tuple(TopologicalSorter(_imports_of_modules()).static_order())  # raises CycleError, which names the files


def test_no_import_cycle_between_packages() -> None:
    """Of packages one below the floors, and the files beside them."""
    packages: dict[str, set[str]] = {}
    for name, imported in _imports_of_modules().items():
        own = packages.setdefault(_package(name), set())
        own |= {_package(each) for each in imported} - {_package(name)}
    tuple(TopologicalSorter(packages).static_order())


def _package(module: str) -> str:
    """`vitcop.calibrate.models` of `vitcop.calibrate.models.families.llava`."""
    return ".".join(module.split(".")[:3])


def test_listed_packages_are_the_folders() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        "vitcop." + ".".join(init.parent.relative_to(ROOT).parts)
        for package in FLOORS
        for init in (ROOT / package).rglob("__init__.py")
    }
    with_code = {
        "vitcop." + ".".join(path.parent.relative_to(ROOT).parts) for package in FLOORS for path in _sources(package)
    }
    assert set(settings["packages"]) == folders == with_code
    assert settings["package-dir"] == {f"vitcop.{package}": package for package in FLOORS}


@pytest.mark.parametrize("package", FLOORS)
def test_attributes_are_born_in_init(package: str) -> None:
    """An attribute that another method brings makes an object that is not whole until that method has run."""
    for path in _sources(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
                fields |= {name.id for item in node.body if isinstance(item, ast.Assign) for name in item.targets}
                fields |= {name for method in methods if method.name == "__init__" for name in _set_on_self(method)}
                later = {name: method.name for method in methods for name in _set_on_self(method) - fields}
                assert not later, f"{path}: {node.name} gets attributes outside __init__: {later}"


def _set_on_self(method: ast.FunctionDef) -> set[str]:
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("package", FLOORS)
def test_bare_names_are_refused(package: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {package}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import this package as 'vitcop.{package}'" in done.stderr


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, json\nsys.argv = ['vitcop', '--help']\nfrom vitcop.pipeline.cli import main\n"
        f"try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print(json.dumps([n for n in {(*HEAVY, 'onnx', 'rich', 'pydantic')!r} if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: vitcop" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_text_speaks_of_the_project_alone() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout, so the list of files is unknown")
    forbidden = ("/work/" + "main", "/root" + "/", "help" + "er-", ".pyenv" + "/versions")
    for name in filter(None, files.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".json", ".txt", ".log", ".jinja", "") and path.is_file():
            text = path.read_text(encoding="utf-8")
            found = [word for word in forbidden if word in text]
            assert not found, f"{name} mentions {found[0]}, a path of one machine"
            if path.suffix == ".md":
                assert not re.search(r"@[A-Z]+@", text), f"{name} has a gap that nobody filled"
