"""What the schedule saves: FLOPs and KV bytes by formula, KV bytes and memory as measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitcop.pipeline.reporting.model import CostRow

if TYPE_CHECKING:
    from vitcop.export.bundle import Bundle

FORMULA = (
    "FLOPs of a prefill are the sum over the decoder layers of 2·n·d·D·(2·Nh + 2·Nkv) + 4·n²·Nh·D + 6·n·d·m "
    "for n tokens present in the layer (d hidden size, m MLP width, Nh and Nkv heads of size D, two FLOPs a "
    "multiply-accumulate), plus 2·d·vocab for the head; "
    "the vision tower is the same for both and left out."
)

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def formula_costs(bundle: "Bundle", text_tokens: int | None) -> tuple[tuple[CostRow, ...], str]:
    """Rows by formula for one prompt of `text_tokens` beside its image, and the note that states the formula."""
    from vitcop.calibrate.models.loading import load_config
    from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost

    shape, schedule = bundle.manifest.architecture, bundle.schedule
    text = text_tokens or 0
    try:
        decoder = DecoderShape.from_config(load_config(bundle.path))
    except AttributeError as error:
        return (), f"FLOPs are not told: config.json lacks {error.name!r}."
    full, pruned = (
        prefill_cost(decoder, counts, text, bytes_per_value=_BYTES[shape.dtype])
        for counts in ([shape.num_visual] * shape.num_layers, schedule.layer_counts(shape.num_visual))
    )
    rows = (
        CostRow(
            label="prefill FLOPs, language model",
            unpruned=si(full.flops, "FLOP"),
            pruned=si(pruned.flops, "FLOP"),
            ratio=pruned.flops / full.flops,
        ),
        CostRow(
            label="KV cache after the prefill",
            unpruned=si(full.kv_bytes, "B"),
            pruned=si(pruned.kv_bytes, "B"),
            ratio=pruned.kv_bytes / full.kv_bytes,
        ),
    )
    beside = f"and {text} other tokens" if text_tokens else "without its text, whose length only `bench` knows"
    return rows, f"By formula for one image {beside}. {FORMULA}"


def bench_costs(bench: Mapping[str, Any] | None) -> tuple[tuple[CostRow, ...], str]:
    """KV bytes as the engine held them, where both engines were timed."""
    rungs = (bench or {}).get("rungs", {})
    if bench is None or not {"engine", "engine_unpruned"} <= rungs.keys():
        return (), ""
    full, pruned = rungs["engine_unpruned"], rungs["engine"]
    row = CostRow(
        label="KV cache held, measured",
        unpruned=si(full["kv_bytes"], "B"),
        pruned=si(pruned["kv_bytes"], "B"),
        ratio=pruned["kv_bytes"] / full["kv_bytes"] if full["kv_bytes"] else None,
    )
    return (
        (row,),
        f"Measured for a batch of {bench['batch']['rows']}; KV lengths by layer group: "
        f"{', '.join(map(str, pruned['kv_lengths']))}.",
    )


def si(value: float, unit: str) -> str:
    """A quantity with a decimal prefix."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
