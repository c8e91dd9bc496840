"""Where an engine's time goes: vision tower, selector (vitcop's own operations), prefill, decode.

ONNX Runtime inlines a function's nodes as `_inlfunc_<function>_<node>`, and its profile lists nodes by that name;
node times whose name starts with one of the vitcop functions of the graph are the selector's. Limits: where the
optimiser fuses such a node with one outside under a new name, it counts as outside; gathering the kept rows is part
of the surrounding graph, not of the selector; on a GPU the times are those that ONNX Runtime reports for launching.
So times come from runs without profiling, and only the shares come from the profile. A graph that has vitcop functions
of which the profile shows no node has an unknown share, None.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.contract import carried_tensors, plane_names
from vitcop.export.runtimes.onnxruntime.options import OnnxRuntimeOptions
from vitcop.export.runtimes.onnxruntime.runner import OnnxRuntimeRunner
from vitcop.export.runtimes.onnxruntime.sessions import GraphSession


def selector_shares(
    bundle: Bundle, batch: PromptBatch, options: OnnxRuntimeOptions | None = None, *, repeats: int = 3
) -> dict[str, float | None]:
    """Share (0 to 1) of the node time of "vision" and of "prefill" spent in vitcop's operations, for one batch.

    None where the profile cannot tell.
    """
    options = options or OnnxRuntimeOptions()
    carried = (*plane_names(bundle.manifest.architecture.num_planes), *carried_tensors(bundle.schedule))
    with TemporaryDirectory() as folder:
        vision = GraphSession(bundle, "vision", options, profile_prefix=str(Path(folder) / "vision"))
        feeds: dict[str, Any] = {name: batch.vision_inputs[name] for name in vision.inputs}
        for _ in range(repeats + 1):
            seen = vision.run(feeds, stay=carried)
        prefill = GraphSession(bundle, "prefill", options, profile_prefix=str(Path(folder) / "prefill"))
        short = batch.after_drop(seen["kept_patches"]) if "kept_patches" in seen else batch
        feeds = {name: getattr(short, name) for name in ("input_ids", "attention_mask", "position_ids", "visual_index")}
        feeds |= {name: seen[name] for name in carried}
        for _ in range(repeats + 1):
            prefill.run(feeds)
        return {graph.part: _share(graph) for graph in (vision, prefill)}


def profile(
    bundle: Bundle,
    batch: PromptBatch,
    options: OnnxRuntimeOptions | None = None,
    *,
    repeats: int = 3,
    new_tokens: int = 8,
) -> dict[str, float | None]:
    """Median seconds by part of one batch: "vision" and "prefill" without "selector", and "decode_per_token".

    Where a share is unknown, the selector's time is None and stays a part of the others.
    """
    options = options or OnnxRuntimeOptions()
    shares = selector_shares(bundle, batch, options, repeats=repeats)
    runner = OnnxRuntimeRunner(bundle, device=options.device, threads=options.threads)
    times: dict[str, list[float]] = {"vision": [], "prefill": [], "decode": []}
    for repeat in range(repeats + 1):
        done = runner.prefill(batch)
        tokens = done.logits.argmax(axis=-1)
        for _ in range(new_tokens):
            start = perf_counter()
            tokens = runner.decode(tokens, done.state).argmax(axis=-1)
            if repeat:
                times["decode"].append(perf_counter() - start)
        if repeat:
            times["vision"].append(done.seconds["vision"])
            times["prefill"].append(done.seconds["prefill"])
    vision, prefill = median(times["vision"]), median(times["prefill"])
    known = {part: share for part, share in shares.items() if share is not None}
    taken = {"vision": vision * known.get("vision", 0.0), "prefill": prefill * known.get("prefill", 0.0)}
    return {
        "vision": vision - taken["vision"],
        "selector": sum(taken.values()) if known == shares else None,
        "prefill": prefill - taken["prefill"],
        "decode_per_token": median(times["decode"]) if times["decode"] else 0.0,
    }


def _share(graph: GraphSession) -> float | None:
    """Read a session's profile; its first run (warming up) does not count."""
    path = Path(graph.session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    begin = runs[1] if len(runs) > 1 else 0
    durations: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begin:
            durations.setdefault(event["name"], []).append(event["dur"])
    # The median of each node over the runs: one interrupted kernel must not move the share.
    return share_of({name: median(values) for name, values in durations.items()}, graph.vitcop_functions)


def share_of(typical: Mapping[str, float], functions: Sequence[str]) -> float | None:
    """Share of the time in nodes of some functions, from the time of each node; None where no node is of them."""
    if not functions:
        return 0.0
    prefixes = tuple(f"_inlfunc_{name}_" for name in functions)
    found = [value for name, value in typical.items() if name.startswith(prefixes)]
    total = sum(typical.values())
    return sum(found) / total if found and total else None
