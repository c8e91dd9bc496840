"""How many visual tokens the exported graphs keep, where a fraction leaves none by itself."""

from dataclasses import replace

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.spec import keep_count


def whole_counts(schedule: Schedule, num_visual: int) -> Schedule:
    """The same schedule in fractions that leave a token by themselves, for V visual tokens at LLM input.

    Where V·num // den is 0 a drop keeps one token nevertheless; sizes of a traced graph are plain products (see
    `least_visual_count`) and cannot say so. Such a fraction becomes the equal 1/V.
    """
    drops, present = [], num_visual
    for drop in schedule.drops:
        num, den = drop.keep
        drops.append(drop if present * num // den else replace(drop, keep=(1, present)))
        present = keep_count(present, drop.keep)
    return replace(schedule, drops=tuple(drops))


def least_visual_count(schedule: Schedule, least: int = 2) -> int:
    """Least V at LLM input for which every drop keeps at least two tokens (or `least`), by the fraction alone.

    torch.export treats sizes 0 and 1 as special; from this V on the kept counts are plain products. The graphs
    also take a smaller V, as long as V·num // den is at least 1 at every drop.
    """
    for drop in reversed(schedule.drops):
        num, den = drop.keep
        least = -(-least * den // num)
    return least
