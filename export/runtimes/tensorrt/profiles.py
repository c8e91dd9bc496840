"""Optimization profiles: min, opt and max shapes of every graph input, from limits that a person can give.

A profile has three points. At each of them batch, text, images and visual tokens have one value, and all axes of all
three graphs follow from these by the schedule, so no two inputs can contradict each other.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Architecture, Bundle, TensorSpec, graph_contract
from vitcop.export.bundle.counts import least_visual_count, whole_counts
from vitcop.plugins.errors import InputError

_POINTS = ("min", "opt", "max")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine has to take, in words of prompts. Everything but the batch counts for one prompt.

    Args:
        max_batch, opt_batch: prompts at a time; the least is 1.
        min_text, opt_text, max_text: tokens of a prompt without its visual tokens. opt_text None: 64, or what comes
            nearest within the limits.
        min_images, opt_images, max_images: images of a prompt, frames of its videos included (of Qwen models: pairs of
            frames). min_images 0 lets prompts of text alone in.
        min_visual, opt_visual, max_visual: visual tokens of a prompt before anything is dropped. None: as many as the
            images have at the encoder's own size; min_visual None, where sizes vary: as few as the schedule can take.
        max_tiles: tiles of a prompt, where an image becomes several. None: what its images can become at most.
        max_new_tokens: generated tokens that the caches have room for.

    Raises InputError that names the option, where min ≤ opt ≤ max does not hold or a value is no whole number.
    """

    max_batch: int = 1
    opt_batch: int = 1
    min_text: int = 1
    opt_text: int | None = None
    max_text: int = 512
    min_images: int = 1
    opt_images: int = 1
    max_images: int = 1
    min_visual: int | None = None
    opt_visual: int | None = None
    max_visual: int | None = None
    max_tiles: int | None = None
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "min_images" else 1
            if value is None and item.default is None:
                continue
            if type(value) is not int or value < least:
                raise InputError(f"{item.name}: expected a whole number of at least {least}, found {value!r}")
        for what in ("batch", "text", "images", "visual"):
            self._check_order([(f"{point}_{what}", getattr(self, f"{point}_{what}", None)) for point in _POINTS])
        if self.max_tiles is not None and self.max_tiles < self.max_images:
            raise InputError(f"max_tiles {self.max_tiles} is below max_images {self.max_images}: an image has a tile")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> "Limits":
        """From plain values by name. Raises InputError for an unknown name."""
        known = cls.names()
        for name in values or {}:
            if name not in known:
                raise InputError(f"there is no limit {name!r} (known: {', '.join(known)})")
        return cls(**(values or {}))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all limits."""
        return tuple(item.name for item in dataclasses.fields(cls))

    def _check_order(self, named: list[tuple[str, int | None]]) -> None:
        given = [(name, value) for name, value in named if value is not None]
        for (lower, small), (upper, large) in pairwise(given):
            if small > large:
                raise InputError(f"{lower} {small} is above {upper} {large}: min ≤ opt ≤ max must hold")


@dataclass(frozen=True)
class Profile:
    """Shapes of one input, each a tuple of sizes: min ≤ opt ≤ max in every axis."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """One point, for one prompt: tokens, images, tiles, and in how many prompts at a time."""

    batch: int
    text: int
    images: int
    tiles: int
    before: int
    """Visual tokens before anything is dropped."""


def profiles_for(bundle: Bundle, limits: Limits) -> dict[str, dict[str, Profile]]:
    """Profiles of every input of "vision", "prefill" and "decode", by graph and input, in the order of the contract.

    Raises InputError that names the option, where the schedule cannot keep the tokens that a limit leaves.
    """
    facts, schedule = bundle.manifest.architecture, effective_schedule(bundle)
    points = _points(bundle, limits)
    contract = graph_contract(bundle.schedule, facts)
    found: dict[str, dict[str, Profile]] = {}
    for part, spec in contract.items():
        sizes = [_sizes(part, name, points, limits, schedule, facts, spec.inputs) for name in _POINTS]
        found[part] = {
            tensor.name: Profile(*(tuple(_size(axis, each, tensor) for axis in tensor.axes) for each in sizes))
            for tensor in spec.inputs
        }
    return found


def cache_capacities(bundle: Bundle, limits: Limits) -> tuple[int, ...]:
    """For each layer group the KV length at which its cache is full: its longest prefill and every new token. What an
    in-place cache [B,Nkv,capacity,D] of the group has to have."""
    points, schedule = _points(bundle, limits), effective_schedule(bundle)
    lengths = _group_lengths(points["max"], schedule)
    return tuple(length + limits.max_new_tokens for length in lengths)


def effective_schedule(bundle: Bundle) -> Schedule:
    """The schedule with the fractions that the graphs were exported with (see `whole_counts`)."""
    schedule, own = bundle.schedule, bundle.manifest.architecture.num_visual
    return whole_counts(schedule, schedule.vision_count(own))


def _points(bundle: Bundle, limits: Limits) -> dict[str, _Counts]:
    """The three points. Their visual tokens are checked against the schedule."""
    facts, schedule = bundle.manifest.architecture, effective_schedule(bundle)
    axes = {axis for record in facts.vision_inputs for axis in record.axes}
    per_image = _tiles_per_image(bundle) if "T" in axes else 1
    # Where all images have one size each has the same tokens; of other encoders the manifest knows a yardstick only.
    fixed = "units" not in axes and per_image == 1
    least = _least_before(schedule)
    own = facts.num_visual

    low = limits.min_visual or (max(1, limits.min_images) * own if fixed else least)
    high = limits.max_visual or limits.max_images * own
    middle = limits.opt_visual or min(max(limits.opt_images * own, low), high)
    named = (("min_visual", low), ("opt_visual", middle), ("max_visual", high))
    for (lower, small), (upper, large) in pairwise(named):
        if small > large:
            raise InputError(f"{lower} is {small} and {upper} is {large} for this model: give both")
    if low < least:
        raise InputError(
            f"min_visual {low}: from fewer than {least} visual tokens the fractions of this bundle's schedule leave "
            "none; raise it, or use a schedule that keeps more"
        )
    if "T" not in axes:
        tiles: tuple[int, ...] = (1, 1, 1)
    elif fixed:  # every tile has the same tokens
        tiles = tuple(max(1, -(-count // own)) for count in (low, middle, high))
    else:
        tiles = (1, limits.opt_images * per_image, limits.max_images * per_image)
    if limits.max_tiles is not None:
        tiles = (min(tiles[0], limits.max_tiles), min(tiles[1], limits.max_tiles), limits.max_tiles)

    text = min(max(64, limits.min_text), limits.max_text) if limits.opt_text is None else limits.opt_text
    columns = {
        "batch": (1, limits.opt_batch, limits.max_batch),
        "text": (limits.min_text, text, limits.max_text),
        "images": (max(1, limits.min_images), max(1, limits.opt_images), limits.max_images),
        "tiles": tiles,
        "before": (low, middle, high),
    }
    return {
        point: _Counts(**{name: column[index] for name, column in columns.items()})
        for index, point in enumerate(_POINTS)
    }


def _tiles_per_image(bundle: Bundle) -> int:
    """Most tiles that an image becomes by config.json's image_grid_pinpoints, the base tile included; 1 without."""
    config = json.loads((bundle.processor_folder / "config.json").read_text(encoding="utf-8"))
    pinpoints = config.get("image_grid_pinpoints")
    pixels = next(record for record in bundle.manifest.architecture.vision_inputs if record.axes[0] == "T")
    edge = int(pixels.axes[-1])
    return 1 + max(height * width for height, width in pinpoints) // edge**2 if pinpoints else 1


def _least_before(schedule: Schedule) -> int:
    """Least visual tokens of a prompt of which the vision stage and every drop keep one by the fraction alone."""
    least = least_visual_count(schedule, 1)
    if schedule.vision is None:
        return least
    num, den = schedule.vision.keep
    return -(-least * den // num)


def _group_lengths(point: _Counts, schedule: Schedule) -> tuple[int, ...]:
    """S_g of every layer group after prefill."""
    return tuple(point.text + count for count in schedule.group_counts(point.before))


def _sizes(
    part: str,
    name: str,
    points: Mapping[str, _Counts],
    limits: Limits,
    schedule: Schedule,
    facts: Architecture,
    inputs: tuple[TensorSpec, ...],
) -> dict[str, int]:
    """Size of every named axis of a graph at one of the three points."""
    point = points[name]
    sizes = {"B": point.batch, "H": facts.hidden_size, "Nkv": facts.num_kv_heads, "D": facts.head_dim}
    if part == "vision":
        return sizes | {"V0": point.before, "T": point.batch * point.tiles} | _units(name, points, facts, inputs)
    # Prompts of text alone reach the language model only: its engines start at no visual token.
    if name == "min" and limits.min_images == 0:
        point = dataclasses.replace(point, before=0)
    if part == "prefill":
        visual = schedule.vision_count(point.before)
        return sizes | {"V": visual, "S": point.text + visual}
    generated = {"min": 0, "opt": limits.max_new_tokens // 2, "max": limits.max_new_tokens - 1}[name]
    for group, length in enumerate(_group_lengths(point, schedule)):
        # The last new token is never fed back with a longer past than this; its own place is the +1.
        sizes |= {f"P_{group}": length + generated, f"P_{group}+1": length + generated + 1}
    return sizes


def _units(
    name: str, points: Mapping[str, _Counts], facts: Architecture, inputs: tuple[TensorSpec, ...]
) -> dict[str, int]:
    """Axes of encoders that see images of any size: units (one a visual token), images, and their segments.

    Sizes of images are not known, so the least and the most are those that any images of these limits can have.
    """
    point, patches = points[name], facts.patches_per_token
    units, images = point.batch * point.before, point.batch * point.images
    # A row of the table is as long as the largest image: from an even share to all tokens of a prompt in one.
    slots = {
        "min": patches * -(-points["min"].before // points["max"].images),
        "opt": patches * -(-point.before // point.images),
        "max": patches * points["max"].before,
    }[name]
    sizes = {"units": units, "images": images, "slots": slots}
    table = next((tensor for tensor in inputs if tensor.axes[0] == "windows"), None)
    if table is None:
        return sizes
    side = isqrt(int(table.axes[1]) // patches)
    # Long strips one unit wide fill a window's side only; squares fill windows but for their borders.
    most = (units + images * (side - 1)) // side
    square = images * (-(-isqrt(-(-units // images)) // side)) ** 2
    least = max(images, -(-units // side**2))
    return sizes | {"windows": {"min": min(least, most), "opt": min(max(square, least), most), "max": most}[name]}


def _size(axis: str, sizes: Mapping[str, int], tensor: TensorSpec) -> int:
    if axis.isdigit():
        return int(axis)
    if axis not in sizes:
        raise InputError(f"input {tensor.name!r}: nothing is known of the size of its axis {axis!r}; export again")
    return sizes[axis]
