"""Settings of the calibration search from plain values by name, as they stand in a recipe."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitcop.pipeline.recipe_values import parse_budget
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.evaluate.settings import CalibrationSettings


def search_settings(values: Mapping[str, Any] | None) -> "CalibrationSettings":
    """Check names and types against the defaults. Raises InputError that names the setting and the nearest one."""
    from vitcop.calibrate.evaluate.settings import CalibrationSettings

    defaults = {item.name: item.default for item in dataclasses.fields(CalibrationSettings)}
    taken: dict[str, Any] = {}
    for name, value in (values or {}).items():
        if name not in defaults:
            near = difflib.get_close_matches(str(name), list(defaults), n=1)
            raise InputError(
                f"unknown setting {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(defaults)}")
            )
        taken[name] = _as_like(name, value, defaults[name])
    return CalibrationSettings(**taken)


def _as_like(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the default. A list of shares takes fractions such as 1/3 too."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise InputError(f"{name}: expected a list, found {value!r}")
        return tuple(_element(name, item, default) for item in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise InputError(f"{name}: expected {type(default).__name__}, found {value!r}")
    return value


def _element(name: str, value: Any, default: tuple[Any, ...]) -> Any:
    if value is None and None in default:
        return None
    if isinstance(default[-1], str):
        if not isinstance(value, str):
            raise InputError(f"{name}: expected a list of names, found {value!r} in it")
        return value
    try:
        return parse_budget(value)
    except ValueError:
        raise InputError(f"{name}: expected shares above 0 and at most 1, found {value!r}") from None


def check_search(value: Any) -> Any:
    """Settings of the search. Raises ValueError for an unknown name or a wrong type."""
    if isinstance(value, Mapping):
        search_settings(value)
    return value
