"""Nothing of TensorRT-LLM is used that its source does not have: names, members, parameters and request keys of the
emitted packages, collected from their syntax trees, against api.json."""

import ast
import re
from pathlib import Path

import pytest

from vitcop.export.runtimes.tensorrt_llm import families, packages
from vitcop.export.runtimes.tensorrt_llm.manifest import api_table

HOME = Path(packages.__file__).parent
SOURCES = sorted([*(HOME / packages.VISION).glob("*.py"), *(HOME / packages.MODEL).glob("*.py")])
MODEL_SOURCES = [path for path in SOURCES if path.parent.name == packages.MODEL]
TABLE = api_table()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names():
    """(file, module, name) of everything imported from tensorrt_llm."""
    found = []
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("tensorrt_llm") for alias in node.names), f"{path}: import by name"
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "tensorrt_llm":
                found += [(path, node.module, alias.name) for alias in node.names]
    return found


def processor_members():
    """Members that every stock input processor of the table has."""
    tables = [
        about["members"]
        for module in TABLE["modules"].values()
        for name, about in module["names"].items()
        if name.endswith("InputProcessorBase")
    ]
    assert len(tables) == 2
    return set.intersection(*map(set, tables)), tables[0]


def mixin():
    tree = tree_of(HOME / packages.MODEL / "pruning.py")
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def test_the_vision_package_uses_nothing_of_it():
    assert {path.parent.name for path, _, _ in imported_names()} == {packages.MODEL}


def test_every_imported_name_is_in_the_table_and_none_is_there_in_vain():
    used = {(module, name) for _, module, name in imported_names()}
    known = {(module, name) for module, about in TABLE["modules"].items() for name in about["names"]}
    assert used == known


def test_every_source_is_named():
    named = {about["file"] for about in TABLE["modules"].values()}
    members = [m for a in TABLE["modules"].values() for n in a["names"].values() for m in n.get("members", {}).values()]
    named |= {member["file"] for member in members} | set(TABLE["request_keys"].values())
    named |= set(TABLE["serve_options"].values()) | set(TABLE["embedding_keys"].values()) | set(TABLE["windows"])
    assert named <= set(TABLE["files"]) and TABLE["repository"] == "NVIDIA/TensorRT-LLM"
    assert all(len(commit) == 40 and int(commit, 16) for commit in TABLE["files"].values())


def test_modules_lie_where_the_table_says():
    for module, about in TABLE["modules"].items():
        assert about["file"] == module.replace(".", "/") + ".py"
        for name in (*TABLE["architectures"].values(), *TABLE["model_types"].values()):
            assert any(file.endswith(f"/{name}.py") for file in TABLE["files"])


@pytest.mark.parametrize("path", MODEL_SOURCES, ids=lambda path: path.name)
def test_calls_have_the_parameters_of_the_table(path):
    """Every call of an imported function, and of a method of an imported object."""
    tree = tree_of(path)
    imports = {name: TABLE["modules"][module]["names"][name] for p, module, name in imported_names() if p == path}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        about = None
        if isinstance(call.func, ast.Name) and call.func.id in imports:
            about = imports[call.func.id]
        elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
            owner = imports.get(call.func.value.id)
            about = owner and owner["members"][call.func.attr]
        if about:
            assert len(call.args) <= len(about["parameters"])
            assert {keyword.arg for keyword in call.keywords} <= set(about["parameters"][len(call.args) :])


@pytest.mark.parametrize("path", [path for path in MODEL_SOURCES if path.name not in packages.SHARED], ids=str)
def test_what_is_registered_is_what_the_runtime_knows(path):
    """Architecture and model type of each family's file, and the stock classes that it builds on."""
    stock = families.STOCK[path.stem]
    constants = {node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)}
    module = TABLE["model_types"][path.stem]
    assert path.stem in constants
    architecture = next(each for each in constants if each in TABLE["architectures"])
    assert TABLE["architectures"][architecture] == module
    assert stock.package and stock.model in {name for p, _, name in imported_names() if p == path}


def test_methods_override_with_the_parameters_of_the_table():
    _, members = processor_members()
    own = {node.name: node for node in mixin().body if isinstance(node, ast.FunctionDef)}
    assert set(own) - set(members) == {"multimodal_data"}, "public methods of ours that override nothing"
    for name in set(own) & set(members) - {"__init__"}:
        arguments = own[name].args
        found = [argument.arg for argument in arguments.args[1:]]
        if arguments.kwonlyargs:
            found += ["*", *(argument.arg for argument in arguments.kwonlyargs)]
        if arguments.kwarg:
            found.append(f"**{arguments.kwarg.arg}")
        expected = members[name]["parameters"]
        # A base that takes more by keyword hands it on in **kwargs.
        assert found == [each for each in expected if each in found or not each.isidentifier()], name
    assert own["__init__"].args.vararg and own["__init__"].args.kwarg, "whatever the base takes is handed on"


def test_attributes_of_self_and_super_are_ours_or_in_the_table():
    known, _ = processor_members()
    own = {node.name for node in mixin().body if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr
        for node in ast.walk(mixin())
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_name(node.value, "self")
    }
    for node in ast.walk(mixin()):
        if isinstance(node, ast.Attribute) and _is_name(node.value, "self"):
            assert node.attr in own | known, f"self.{node.attr}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and _is_name(node.value.func, "super"):
            assert node.attr in known, f"super().{node.attr}"


def test_keys_of_requests_are_in_the_table():
    """Keys that are read of inputs, and keys of the dicts that are returned."""
    used = set()
    for node in ast.walk(mixin()):
        if isinstance(node, ast.Dict):
            used |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            used.add(node.slice.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            used |= {key.value for key in node.args[:1] if isinstance(key, ast.Constant)}
        if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant):
            used |= {each.value for each in node.comparators if isinstance(each.value, str)}
    assert used == set(TABLE["request_keys"])


def test_what_the_documentation_uses_is_in_the_table():
    """Options of trtllm-serve, and the key of a request with embeddings, in README, docs and the package's example."""
    root = Path(__file__).parents[2]
    texts = [(root / name).read_text(encoding="utf-8") for name in ("README.md", "docs/tensorrt-llm.md")]
    commands = [
        each for text in texts for each in re.findall(r"^(?:VITCOP\S+ )?trtllm-serve (?:.*\\\n)*.*", text, re.MULTILINE)
    ]
    assert len(commands) == 2
    assert {option for command in commands for option in re.findall(r"--\w+", command)} == set(TABLE["serve_options"])
    example = (HOME / packages.VISION / "__init__.py").read_text(encoding="utf-8")
    for text in (texts[1], example):
        ((key, inner),) = re.findall(r'llm\.generate\(\{"prompt": text, "(\w+)": \{"(\w+)": embeddings', text)
        assert {key, inner} == set(TABLE["embedding_keys"])


def test_every_family_file_is_packaged_and_every_packaged_family_has_one():
    with_file = {path.stem for path in MODEL_SOURCES if path.name not in packages.SHARED}
    assert with_file == {name for name, stock in families.STOCK.items() if stock.package}


def _is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name
