"""The KV lengths that an engine made against those that its schedule forecasts: the same question on every target."""

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Bundle
from vitcop.plugins.errors import InputError


def check_lengths(bundle: Bundle, found: tuple[int, ...], num_visual: int, num_other: int) -> tuple[int, ...]:
    """The KV length of each layer group, as the engine made them.

    Args:
        num_visual: visual tokens of the prompts before anything was dropped.
        num_other: all their other places, padding included.

    Raises InputError where they are not those of the schedule.
    """
    expected = tuple(count + num_other for count in bundle.schedule.group_counts(num_visual))
    own = bundle.manifest.architecture.num_visual
    if found != expected and any(0 in _plain_counts(bundle.schedule, count) for count in (num_visual, own)):
        raise InputError(
            f"{bundle.path}: the schedule's fractions leave less than one visual token; its engine takes "
            f"prompts of {own} visual tokens alone, not of {num_visual}: use a schedule that keeps more"
        )
    if found != expected:
        raise InputError(
            f"{bundle.path}: the engine kept KV lengths {found}, its schedule says {expected}; export the bundle again"
        )
    return found


def _plain_counts(schedule: Schedule, num_visual: int) -> list[int]:
    """Visual tokens behind each stage by V·num // den alone, without the rule that one stays."""
    counts = [num_visual]
    keeps = [*([schedule.vision.keep] if schedule.vision else []), *(drop.keep for drop in schedule.drops)]
    for num, den in keeps:
        counts.append(counts[-1] * num // den)
    return counts
