"""From a config to its family."""

from typing import Any

from vitcop.calibrate.models.families.base import Family
from vitcop.calibrate.models.families.internvl import InternVLFamily
from vitcop.calibrate.models.families.llava import LlavaFamily
from vitcop.calibrate.models.families.llava_next import LlavaNextFamily
from vitcop.calibrate.models.families.llava_next_video import LlavaNextVideoFamily
from vitcop.calibrate.models.families.llava_onevision import LlavaOnevisionFamily
from vitcop.calibrate.models.families.qwen2_5_vl import Qwen25VLFamily
from vitcop.calibrate.models.families.qwen3_vl import Qwen3VLFamily
from vitcop.plugins.errors import InputError

_FAMILIES: tuple[type[Family], ...] = (
    LlavaFamily,
    LlavaNextFamily,
    LlavaNextVideoFamily,
    LlavaOnevisionFamily,
    Qwen25VLFamily,
    Qwen3VLFamily,
    InternVLFamily,
)


def supported_architectures() -> tuple[str, ...]:
    """The `architectures` entries of config.json that vitcop reads."""
    return tuple(name for family in _FAMILIES for name in family.architectures)


def family_of(config: Any) -> Family:
    """The family of a transformers config, bound to it. Raises InputError that names what was found and what is
    supported."""
    found = list(getattr(config, "architectures", None) or [])
    for family in _FAMILIES:
        if set(found) & set(family.architectures):
            return family(config)
    raise InputError(
        f"architecture {', '.join(found) or 'unknown'} is not supported; supported: "
        f"{', '.join(supported_architectures())}"
    )
