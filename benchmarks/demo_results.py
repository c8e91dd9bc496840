"""Keep what one `make demo` measured: out/*.json without the rows of single samples.

python benchmarks/demo_results.py [out/] writes results/shapes_vqa_demo.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vitcop.export.measure import machine_facts

HERE = Path(__file__).parent
OF_VERIFY = ("export_loss", "gates", "samples", "schedule_loss", "scores", "settings", "versions")
OF_BENCH = ("batch", "notes", "ratios", "rungs", "settings")
OF_SCHEDULE = ("drops", "num_layers", "vision")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "out"

    def read(name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        found = json.loads((out / name).read_text(encoding="utf-8"))
        return {key: found[key] for key in keys if key in found}

    calibration = read("calibration.json", ("curve", "selection"))
    for candidates in calibration.values():
        for candidate in candidates:
            for key in ("schedule", "choices"):  # the name says both
                candidate.pop(key, None)
    result = {
        "command": "make demo",
        "machine": machine_facts(),
        "bench": read("bench.json", OF_BENCH),
        "schedule": read("schedule.json", OF_SCHEDULE),
        **calibration,
        **read("verify.json", OF_VERIFY),
    }
    text = json.dumps(result, indent=2, sort_keys=True) + "\n"
    (HERE / "results" / "shapes_vqa_demo.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
