"""The graph contract: names, types and shapes of every graph's inputs and outputs, as they follow from a schedule.

Axis names: B batch, S sequence after the vision stage, V visual tokens after the vision stage, K kept visual tokens,
S_g and P_g present and past KV length of layer group g. An axis written as a number is fixed.
"""

from dataclasses import dataclass

from vitcop.calibrate.schedule import Schedule

GRAPHS = ("vision", "prefill", "decode")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `kind` is "int64" or "float" (of any float type), `axes` are names for people."""

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


def graph_contract(schedule: Schedule) -> dict[str, GraphSpec]:
    """What "vision", "prefill" and "decode" take and give under a schedule."""
    groups = group_of_layer(schedule)
    carried = [
        TensorSpec(name, "float" if name == "vision_saliency" else "int64", ("B", "V"))
        for name in carried_tensors(schedule)
    ]
    features = TensorSpec("visual_features", "float", ("B", "V", "H"))
    kept = [TensorSpec("kept_patches", "int64", ("B", "V"))] if schedule.vision else []
    logits = TensorSpec("logits", "float", ("B", "1", "vocab"))

    prefill_out = [logits, *_cache("present", groups, "S")]
    for index, drop in enumerate(schedule.drops):
        prefill_out.append(TensorSpec(f"kept_visual_{index}", "int64", ("B", f"K_{index}")))
        if drop.op == "merge":
            prefill_out.append(TensorSpec(f"assignment_{index}", "float", ("B", f"K_{index}", "V")))
    masks = [
        TensorSpec(f"attention_mask_{group}", "int64", ("B", f"P_{group}+1")) for group in range(len(schedule.groups))
    ]
    return {
        "vision": GraphSpec((TensorSpec("pixel_values", "float", ("B", "3", "h", "w")),), (features, *kept, *carried)),
        "prefill": GraphSpec(
            (
                TensorSpec("input_ids", "int64", ("B", "S")),
                TensorSpec("attention_mask", "int64", ("B", "S")),
                TensorSpec("position_ids", "int64", ("B", "S")),
                features,
                TensorSpec("visual_index", "int64", ("B", "V")),
                *carried,
            ),
            tuple(prefill_out),
        ),
        "decode": GraphSpec(
            (
                TensorSpec("input_ids", "int64", ("B", "1")),
                TensorSpec("position_ids", "int64", ("B", "1")),
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
