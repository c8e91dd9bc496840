"""The part of vitcop that prepares prompts and images, copied into an emitted package under another name.

An emitted package runs where vitcop is not installed, and must prepare images exactly as calibration did: so it carries
the very files, found by following their imports, with `vitcop.` at the head of imports renamed.
"""

import ast
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

HOST = "vitcop_vision.host"
"""The name under which the emitted package imports the copies."""

_IMPORT = re.compile(r"^(\s*from )vitcop(\.[\w.]+ import )", re.MULTILINE)


def host_modules(family_module: str) -> tuple[str, ...]:
    """Names of the modules that a family's host side needs, sorted; `family_module` is one of them."""
    todo = [family_module, "vitcop.calibrate.models.processor", "vitcop.plugins.spec"]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _imports(_source(name))
    return tuple(sorted(found))


def host_digests(family_module: str) -> dict[str, str]:
    """sha256 of each of these modules, by name."""
    names = host_modules(family_module)
    return {name: hashlib.sha256(_source(name).encode()).hexdigest() for name in names}


def write_host(family_module: str, folder: Path) -> None:
    """Write the modules below `folder`, the package HOST, with empty packages around them."""
    for name in host_modules(family_module):
        path = folder.joinpath(*name.split(".")[1:]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(renamed(_source(name)), encoding="utf-8")
    modules = [path.relative_to(folder) for path in folder.rglob("*.py")]
    for package in sorted({folder / parent for module in modules for parent in module.parents}):
        text = '"""Copied from vitcop: how prompts and images of one model family are prepared."""\n'
        (package / "__init__.py").write_text(text, encoding="utf-8")


def renamed(source: str) -> str:
    """A module's text with its imports of vitcop turned to the copies."""
    return _IMPORT.sub(rf"\g<1>{HOST}\g<2>", source)


def _source(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin).read_text(encoding="utf-8")


def _imports(source: str) -> list[str]:
    """Modules of vitcop that a module imports, also later inside its functions; not those for type checkers alone."""
    tree = ast.parse(source)
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and id(node) not in ignored
        if node.module is not None and node.module.startswith("vitcop.")
    ]
