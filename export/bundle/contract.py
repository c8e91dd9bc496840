"""The graph contract: names, types and shapes of every graph's inputs and outputs, as they follow from a schedule.

Axis names: B batch, V0 and V visual tokens before and after the vision stage, S sequence after it, K kept ones,
S_g and P_g present and past KV length of layer group g. An axis written as a number is fixed.
"""

from dataclasses import dataclass

from vitcop.calibrate.models.families.layout import GRID, GROUP, PATCHES
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.architecture import Architecture

GRAPHS = ("vision", "prefill", "decode")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `kind` is "int64", "float" (of any float type) or "float32"; `axes` are names for people, or
    numbers where the size is fixed."""

    name: str
    kind: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of one graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def needs_saliency(schedule: Schedule) -> bool:
    """True where a drop ranks by the vision stage's score, so that it travels from vision to prefill graph."""
    return any(drop.score == "vision_saliency" for drop in schedule.drops)


def needs_labels(schedule: Schedule) -> bool:
    """True where a drop merges, so that the cluster labels travel from the vision graph to the prefill graph."""
    return any(drop.op == "merge" for drop in schedule.drops)


def carried_tensors(schedule: Schedule) -> tuple[str, ...]:
    """Names of the tensors beside the features that the vision graph hands to the prefill graph."""
    return ("vision_saliency",) * needs_saliency(schedule) + ("cluster_labels",) * needs_labels(schedule)


def group_of_layer(schedule: Schedule) -> tuple[int, ...]:
    """For each decoder layer the layer group that it belongs to."""
    return tuple(group for group, layers in enumerate(schedule.groups) for _ in layers)


def sliding_groups(schedule: Schedule, facts: Architecture) -> tuple[int, ...]:
    """Layer groups with sliding windows: their decoding also reads where each key stood in its full prompt."""
    sliding = set(facts.sliding_layers)
    return tuple(group for group, layers in enumerate(schedule.groups) if not sliding.isdisjoint(layers))


def plane_names(num_planes: int) -> tuple[str, ...]:
    """Names of the feature planes: `visual_features`, and `deepstack_i` for each further one."""
    return ("visual_features", *(f"deepstack_{i}" for i in range(num_planes)))


def score_inputs(schedule: Schedule, patches_per_token: int) -> tuple[TensorSpec, ...]:
    """What a vision stage reads beside the family's own inputs: the patches behind each token for its score, and their
    places for its clusters."""
    if schedule.vision is None:
        return ()
    patches = TensorSpec(PATCHES, "int64", ("B", "V0", str(patches_per_token)))
    places = (TensorSpec(GRID, "float32", ("B", "V0", "2")), TensorSpec(GROUP, "int64", ("B", "V0")))
    labels = needs_labels(schedule)
    scored = labels or schedule.vision.score not in ("uniform", "random")
    return (patches,) * scored + places * labels


def graph_contract(schedule: Schedule, facts: Architecture) -> dict[str, GraphSpec]:
    """What "vision", "prefill" and "decode" of a model take and give under a schedule."""
    groups = group_of_layer(schedule)
    carried = [
        TensorSpec(name, "float32" if name == "vision_saliency" else "int64", ("B", "V"))
        for name in carried_tensors(schedule)
    ]
    planes = [TensorSpec(name, "float", ("B", "V", "H")) for name in plane_names(facts.num_planes)]
    positions = () if facts.position_axes == 1 else ("4",)
    kept = [TensorSpec("kept_patches", "int64", ("B", "V"))] if schedule.vision else []
    logits = TensorSpec("logits", "float", ("B", "1", "vocab"))

    prefill_out = [logits, *_cache("present", groups, "S")]
    for index, drop in enumerate(schedule.drops):
        prefill_out.append(TensorSpec(f"kept_visual_{index}", "int64", ("B", f"K_{index}")))
        if drop.op == "merge":
            prefill_out.append(TensorSpec(f"assignment_{index}", "float32", ("B", f"K_{index}", "V")))
    per_group = {"attention_mask": range(len(schedule.groups)), "key_places": sliding_groups(schedule, facts)}
    masks = [
        TensorSpec(f"{name}_{group}", "int64", ("B", f"P_{group}+1"))
        for name, groups_of in per_group.items()
        for group in groups_of
    ]
    # V is what leaves the vision stage; what enters it has more.
    own = [
        TensorSpec(record.name, record.kind, tuple("V0" if axis == "V" else axis for axis in record.axes))
        for record in facts.vision_inputs
    ]
    return {
        "vision": GraphSpec((*own, *score_inputs(schedule, facts.patches_per_token)), (*planes, *kept, *carried)),
        "prefill": GraphSpec(
            (
                TensorSpec("input_ids", "int64", ("B", "S")),
                TensorSpec("attention_mask", "int64", ("B", "S")),
                TensorSpec("position_ids", "int64", ("B", "S", *positions)),
                planes[0],
                TensorSpec("visual_index", "int64", ("B", "V")),
                *planes[1:],
                *carried,
            ),
            tuple(prefill_out),
        ),
        "decode": GraphSpec(
            (
                TensorSpec("input_ids", "int64", ("B", "1")),
                TensorSpec("position_ids", "int64", ("B", "1", *positions)),
                *masks,
                *_cache("past", groups, "P"),
            ),
            (logits, *_cache("present", groups, "P", "+1")),
        ),
    }


def _cache(prefix: str, groups: tuple[int, ...], letter: str, more: str = "") -> list[TensorSpec]:
    """Keys and values of all layers, layer by layer."""
    return [
        TensorSpec(f"{prefix}_{part}_{layer}", "float", ("B", "Nkv", f"{letter}_{group}{more}", "D"))
        for layer, group in enumerate(groups)
        for part in ("key", "value")
    ]
