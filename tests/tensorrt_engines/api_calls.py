"""Every use of TensorRT's Python API in vitcop's sources, found in their syntax trees.

The list comes from the code: a name `trt` bound by `import tensorrt as trt`, annotations such as "trt.ICudaEngine", and
from there on the types that the bindings' own signatures name as results. So a use is a pair (owner, name): `trt`
itself, or a class and one of its members. What an expression's type cannot be told of is reported when it looks like
an API call, so that nothing slips through for want of an annotation.

A use that stands under an `if hasattr(owner, "name")` (or behind one in an `and`) is guarded: it may be missing.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODULE = "trt"
EVERYWHERE = ("name",)
"""Attributes that things of other libraries have too, and all of TensorRT's."""


@dataclass(frozen=True)
class Use:
    """One use: owner ("trt" or a class name), member, and how it is called, if it is."""

    owner: str
    name: str
    where: str
    guarded: bool
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    stored: bool = False


@dataclass
class Api:
    """What the bindings say: members of each class, and the class that a call, or a member of the module, gives.

    Args:
        members: class name -> names of its members; "trt" -> names in the module.
        results: (owner, name) -> class name of what a call returns.
    """

    members: Mapping[str, frozenset[str]]
    results: Mapping[tuple[str, str], str]

    def known(self, name: str) -> frozenset[str]:
        """Classes that have a member of this name."""
        return frozenset(owner for owner, names in self.members.items() if name in names and owner != MODULE)


@dataclass
class Scope:
    """Types of names within one function, on top of those around it."""

    types: dict[str, str] = field(default_factory=dict)


class Reader(ast.NodeVisitor):
    """Walks one file."""

    def __init__(self, path: Path, api: Api, attributes: Mapping[str, str]) -> None:
        self.path, self.api, self.attributes = path, api, attributes
        self.uses: list[Use] = []
        self.untold: list[str] = []
        self.scopes: list[dict[str, str | None]] = [{}]
        self.guards: list[set[tuple[str, str]]] = [set()]

    # Names and their types

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope: dict[str, str | None] = {}
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            scope[argument.arg] = annotated(argument.annotation)
        self.scopes.append(scope)
        for statement in node.body:
            self.visit(statement)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            self.visit(base)
        owner = next((self.type_of(base) for base in node.bases if self.type_of(base)), None)
        self.scopes.append({"self": owner.removeprefix("type:") if owner else None})
        for statement in node.body:
            if owner and isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
                # A method that TensorRT calls: it has to be one that the class knows, with its arguments.
                count = len(statement.args.args) - 1
                self.note(owner.removeprefix("type:"), statement.name, statement, positional=count)
            self.visit(statement)
        self.scopes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.scopes[-1][node.target.id] = annotated(node.annotation)
        self.visit(node.annotation)
        self.visit(node.target)
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        found = self.type_of(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                # An annotation holds where what is assigned cannot be told.
                self.scopes[-1][target.id] = found or self.scopes[-1].get(target.id)
            else:
                self.visit(target)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "tensorrt":
                assert alias.asname == MODULE, f"{self.path}: TensorRT is imported as {MODULE}, as one name for all"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert (node.module or "").split(".")[0] != "tensorrt", f"{self.path}: import tensorrt as {MODULE}"

    # Uses

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        owner = self.type_of(node.value)
        stored = isinstance(node.ctx, ast.Store)
        if owner:
            self.note(owner.removeprefix("type:"), node.attr, node, stored=stored)
        elif stored and not is_self(node.value) and node.attr not in EVERYWHERE and self.api.known(node.attr):
            self.untold.append(self.place(node, f"sets .{node.attr} of something untold"))

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)
        if not isinstance(function, ast.Attribute):
            self.visit(function)
            return
        owner = self.type_of(function.value)
        self.visit(function.value)
        if owner:
            keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
            # `trt.ILogger.__init__(self)` hands over what the signature does not count.
            count = len(node.args) - (owner.startswith("type:") and function.attr == "__init__")
            self.note(owner.removeprefix("type:"), function.attr, node, positional=count, keywords=keywords)
        elif "_" in function.attr.strip("_") and self.api.known(function.attr) and not is_self(function.value):
            self.untold.append(self.place(node, f"calls .{function.attr}() of something untold"))

    def visit_If(self, node: ast.If) -> None:
        self.guarded_by(node.test, node.body)
        for statement in node.orelse:
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.guarded_by(node.test, [node.body])
        self.visit(node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        found: set[tuple[str, str]] = set()
        for value in node.values:
            self.guards.append(self.guards[-1] | found)
            self.visit(value)
            self.guards.pop()
            if isinstance(node.op, ast.And):
                found |= self.asked(value)

    def guarded_by(self, test: ast.expr, body: Iterable[ast.AST]) -> None:
        self.visit(test)
        self.guards.append(self.guards[-1] | self.asked(test))
        for part in body:
            self.visit(part)
        self.guards.pop()

    def asked(self, test: ast.expr) -> set[tuple[str, str]]:
        """What a condition asks for by hasattr, where all of it must hold."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return set().union(*(self.asked(value) for value in test.values))
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
            owner, name = self.type_of(test.args[0]), test.args[1]
            if owner and isinstance(name, ast.Constant):
                return {(owner.removeprefix("type:"), name.value)}
        return set()

    def note(self, owner: str, name: str, node: ast.AST, **call: object) -> None:
        guarded = (owner, name) in self.guards[-1] or (MODULE, owner) in self.guards[-1]
        self.uses.append(Use(owner, name, self.place(node, ""), guarded, **call))

    def place(self, node: ast.AST, what: str) -> str:
        return f"{self.path.name}:{node.lineno} {what}".strip()

    # Types

    def type_of(self, node: ast.expr) -> str | None:
        """The class of an expression's value ("type:X" for the class X itself), None where it is not known."""
        if isinstance(node, ast.Name):
            if node.id == MODULE:
                return MODULE
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value)
            if owner == MODULE:
                return f"type:{node.attr}" if node.attr in self.api.members else None
            if owner and owner.startswith("type:") and f"{owner[5:]}.{node.attr}" in self.api.members:
                return f"type:{owner[5:]}.{node.attr}"
            return None if owner else self.attributes.get(node.attr)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                owner = self.type_of(node.func.value)
                if owner == MODULE and node.func.attr in self.api.members:
                    return node.func.attr
                return self.api.results.get((owner.removeprefix("type:"), node.func.attr)) if owner else None
            if isinstance(node.func, ast.Name):
                return self.attributes.get(f"{node.func.id}()")
        return None


def annotated(node: ast.expr | None) -> str | None:
    """The one TensorRT class in an annotation such as "trt.IAttention | None"."""
    if node is None:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    if isinstance(node, ast.BinOp):
        found = {annotated(side) for side in (node.left, node.right)} - {None}
        return found.pop() if len(found) == 1 else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == MODULE:
        return node.attr
    return None


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def shared_types(files: Iterable[Path]) -> dict[str, str]:
    """Types that one file tells another: annotated attributes of `self` by name, results of functions as "name()"."""
    found: dict[str, str] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                name, told = node.target.attr, annotated(node.annotation)
            elif isinstance(node, ast.FunctionDef):
                name, told = f"{node.name}()", annotated(node.returns)
            else:
                continue
            if told:
                assert found.setdefault(name, told) == told, f"{path}: {name} has two types"
    return found


def read(files: Iterable[Path], api: Api) -> Iterator[Reader]:
    """A reader that has walked each file that speaks of TensorRT."""
    files = [path for path in files if "tensorrt as trt" in path.read_text(encoding="utf-8")]
    attributes = shared_types(files)
    for path in files:
        reader = Reader(path, api, attributes)
        reader.visit(ast.parse(path.read_text(encoding="utf-8")))
        yield reader
