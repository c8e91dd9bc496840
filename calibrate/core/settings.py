"""Settings: frozen dataclasses whose fields say what they mean and which values they take.

A field is declared once, with `setting`. Recipes and files are read by it, its meaning is printed as reference and as
help of the option, and `check_settings` holds what is made in Python to it.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from fractions import Fraction
from typing import Annotated, Any, get_type_hints

from vitcop.calibrate.core.strict_json import read
from vitcop.plugins.errors import InputError


def setting(
    default: Any = MISSING,
    meaning: str = "",
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A field of a settings class.

    Args:
        default: none where left out.
        meaning: in a few words, for references and help texts.
        least, above, most: the range of a number.
        factory: makes the default, where it can be changed.
    """
    made = {"default_factory": factory} if factory else {"default": default}
    return field(**made, metadata={"meaning": meaning, "least": least, "above": above, "most": most})


def meaning(item: Field) -> str:
    """What a setting means."""
    return item.metadata.get("meaning", "")


def check_settings(settings: Any) -> None:
    """Read the fields of new settings as a recipe's are, so that lists become tuples and texts paths, and hold them to
    their ranges. Raises InputError that names the field."""
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        object.__setattr__(settings, name, read(kind, getattr(settings, name), name))
    for item in fields(settings):
        value, least, above, most = getattr(settings, item.name), *map(item.metadata.get, ("least", "above", "most"))
        if value is None:
            continue
        if least is not None and not value >= least:
            raise InputError(f"{item.name}: must be at least {least}, found {value}")
        if above is not None and not value > above:
            raise InputError(f"{item.name}: must be above {above}, found {value}")
        if most is not None and not value <= most:
            raise InputError(f"{item.name}: must be at most {most}, found {value}")


def share(value: Any) -> float:
    """A share above 0 and at most 1 as a float, from a number or from text such as "1/3". Raises InputError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise InputError(
            f"expected a number above 0 and at most 1, or a fraction such as 1/3, found {value!r}"
        ) from None
    if not 0 < found <= 1:
        raise InputError(f"expected a number above 0 and at most 1, found {value!r}")
    return found


def number(value: Any) -> Any:
    """Text such as "1e13", which YAML does not take for a number, as one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Share = Annotated[float, share]
Number = Annotated[float, number]
