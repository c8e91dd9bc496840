"""JSON, written as RFC 8259 has it and read strictly: text to dataclasses by their annotations. No torch.

Python's own reader takes NaN, Infinity and keys that stand twice. A file of ours that holds any of these, an unknown or
missing key, a value of another type, or another schema version is refused by one line that names file and key. What a
type cannot say (a range, an order) a dataclass checks itself, in `__post_init__`.
"""

import dataclasses
import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from vitcop.plugins.errors import InputError

T = TypeVar("T")

_SAID = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


def to_json(value: Any, *, indent: int | None = None) -> str:
    """One text for equal values: keys are sorted. Raises ValueError where a number is not finite."""
    return json.dumps(value, indent=indent, sort_keys=True, allow_nan=False)


def from_json(text: str) -> Any:
    """The value. Raises ValueError where the text is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def plain(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, keys are texts."""
    return from_json(to_json(value))


def read_text(path: str | Path) -> str:
    """The text of a file. Raises InputError that names it."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def parse_object(text: str, source: str) -> dict[str, Any]:
    """A JSON object. Raises InputError that names `source`."""
    try:
        data = from_json(text)
    except ValueError as error:
        raise InputError(f"{source}: not readable as JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{source}: expected a JSON object, found {_said(data)}")
    return data


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError that names it."""
    return parse_object(read_text(path), str(path))


def versioned(text: str, source: str, version: int, hint: str = "") -> dict[str, Any]:
    """The JSON object of a file whose `schema_version` must be `version`; `hint` says what to do about another one.

    Raises InputError that names `source`.
    """
    data = parse_object(text, source)
    found = data.get("schema_version")
    if type(found) is not int or found != version:
        known = f"is not known here (this vitcop reads {version})"
        raise InputError(f"{source}: schema_version {found!r} {known}{hint and f'; {hint}'}")
    return data


def parse(kind: type[T], text: str, source: str, *, version: int, hint: str = "") -> T:
    """A dataclass from the text of its file; arguments and errors as in `versioned`."""
    data = versioned(text, source, version, hint)
    if "schema_version" not in _fields(kind):  # type: ignore[arg-type]  # mypy takes a class for unhashable
        del data["schema_version"]
    with naming(source):
        return read(kind, data)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """InputErrors of the block, with `source` before them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}" if source else str(error)) from None


def read(kind: Any, value: Any, key: str = "") -> Any:
    """A value of an annotated type from JSON values, or from what is of that type already.

    Takes dataclasses, `tuple[X, ...]`, `tuple[X, Y]`, `list[X]`, `dict[str, X]`, `X | None`, Literal, Any, int, float
    (also from an integer), str, bool, Path, and `Annotated[X, convert]`, where `convert` gives what X takes or raises
    InputError.

    Raises InputError that names the key below `key`, as in "drops[0].keep".
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        with naming(key):
            value = inner[1](value)
        return read(inner[0], value, key)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else read(next(each for each in inner if each is not type(None)), value, key)
    if origin is Literal:
        if value not in inner or isinstance(value, bool | float):
            raise _error(key, f"{value!r} is not one of {', '.join(map(str, inner))}")
        return value
    if dataclasses.is_dataclass(origin):
        return value if isinstance(value, kind) else _read_dataclass(kind, value, key)
    if origin is tuple or origin is list:
        return origin(_items(origin, inner, value, key))
    if origin is dict:
        _check(dict, value, key)
        return {name: read(inner[1] if inner else Any, each, _below(key, name)) for name, each in value.items()}
    if origin is Path:
        return value if isinstance(value, Path) else Path(_check(str, value, key))
    return _check(origin, value, key)


def check_fields(instance: Any) -> None:
    """Hold the fields of a dataclass to their annotations, for those who make one in Python. Raises InputError."""
    for name, kind in _fields(type(instance)).items():  # type: ignore[arg-type]  # as above
        value = getattr(instance, name)
        # Lists and objects are of JSON alone. NaN, which equals nothing, is for the dataclass to refuse.
        if read(kind, value, name) != value and value == value:
            raise _error(name, f"expected what {kind} says, found {value!r}")


def _read_dataclass(kind: type, value: Any, key: str) -> Any:
    _check(dict, value, key)
    known = _fields(kind)
    for name in value:
        if name not in known:
            raise _error(key, f"unknown key {name!r} (known: {', '.join(known)})")
    for item in dataclasses.fields(kind):
        if item.name not in value and item.default is item.default_factory is dataclasses.MISSING:
            raise _error(key, f"missing key {item.name!r}")
    values = {name: read(known[name], each, _below(key, name)) for name, each in value.items()}
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(_below(key, str(error))) from None


def _items(origin: type, inner: tuple[Any, ...], value: Any, key: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _error(key, f"expected a list, found {value!r}")
    if origin is tuple and inner[-1] is not Ellipsis and len(value) != len(inner):
        raise _error(key, f"expected a list of {len(inner)}, found {value!r}")
    of = inner if origin is tuple and inner[-1] is not Ellipsis else [inner[0]] * len(value)
    return [read(kind, each, f"{key}[{i}]") for i, (kind, each) in enumerate(zip(of, value, strict=True))]


def _check(kind: type, value: Any, key: str) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise _error(key, f"expected {_SAID[kind]}, found {value!r}")
    return value


@cache
def _fields(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind) if item.init}


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _error(key: str, message: str) -> InputError:
    return InputError(f"{key}: {message}" if key else message)


def _said(value: Any) -> str:
    return _SAID.get(type(value), type(value).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
