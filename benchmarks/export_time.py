"""CPU seconds of capturing, rewriting and lowering the embedded model, by graph and number of drops.

python benchmarks/export_time.py
"""

import json
from pathlib import Path
from time import process_time

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.schedule.schedule import Drop, Schedule
from vitcop.export.capture import capture_decode, capture_prefill, capture_vision, example_tables
from vitcop.export.capture.paths import module_paths
from vitcop.export.capture.skeleton import load_skeleton
from vitcop.export.lower import lower
from vitcop.export.measure import machine_facts
from vitcop.export.rewrite import DropTokensPass, Pass, Sequence, SplitCachePass, VisionStagePass

HERE = Path(__file__).parent
MODEL = HERE.parent / "examples" / "shapes_vqa" / "model"


def main() -> None:
    """Print the table and write results/export_time.json."""
    skeleton = load_skeleton(Checkpoint.open(MODEL))
    model, family = skeleton.model, skeleton.family
    paths = module_paths(model, family)
    layers, num_visual = family.num_layers, family.num_visual
    paper = preset("paper-1/3", layers, num_visual)
    one_drop = Schedule(num_layers=layers, drops=(Drop(layer=2, keep=(1, 2)),))
    cases: list[tuple[str, str, list[Pass]]] = [
        ("vision", "none", []),
        ("vision", "paper-1/3", [VisionStagePass(paper, example_tables(paper, family), 1.0)]),
        ("prefill", "none", []),
        ("prefill", "one drop", [DropTokensPass(one_drop, paths)]),
        ("prefill", "paper-1/3", [DropTokensPass(paper, paths)]),
        ("decode", "none", []),
        ("decode", "paper-1/3", [SplitCachePass(paper, paths)]),
    ]
    captures = {
        "vision": lambda: capture_vision(model, family, watched=True)[0],
        "prefill": lambda: capture_prefill(model, family, num_visual=num_visual, min_visual=16),
        "decode": lambda: capture_decode(model, family),
    }
    rows = []
    print(f"{'graph':<10}{'schedule':<12}{'capture':>10}{'rewrite':>10}{'lower':>10}   CPU seconds")
    for graph_name, schedule_name, passes in cases:
        start = process_time()
        with skeleton.mode:
            graph = captures[graph_name]()
        captured = process_time()
        Sequence(*passes)(graph)
        rewritten = process_time()
        lower(graph)
        lowered = process_time()
        seconds = {"capture": captured - start, "rewrite": rewritten - captured, "lower": lowered - rewritten}
        rows.append({"graph": graph_name, "schedule": schedule_name, "cpu_seconds": seconds})
        print(f"{graph_name:<10}{schedule_name:<12}" + "".join(f"{value:>10.1f}" for value in seconds.values()))
    results = {"benchmark": "export_time", "machine": machine_facts(), "rows": rows}
    (HERE / "results" / "export_time.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
