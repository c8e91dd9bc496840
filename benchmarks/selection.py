"""What token dropping itself costs: the CPU form against literal loops, the CUDA kernels against eager torch, a copy of
memory and the prefill of a 7B model.

python benchmarks/selection.py writes selection.json to $OUT, or else to benchmarks/results. Without a GPU, or without
the kernels (`make kernels`), the GPU's part says so.
"""

import json
import os
from pathlib import Path
from typing import Any

import selection_cpu
import torch

from vitcop.export.machine import machine_facts
from vitcop.plugins.cuda import library

OUT = Path(os.environ.get("OUT", Path(__file__).parent / "results"))


def gpu_part() -> dict[str, Any]:
    """The figures, or why there are none."""
    if not torch.cuda.is_available():
        return {"measured": False, "reason": "no NVIDIA GPU"}
    if library.load() is None:
        return {"measured": False, "reason": "the kernels are not built (make kernels)"}
    import selection_gpu

    return {"measured": True, "gpu": torch.cuda.get_device_name(), **selection_gpu.measure()}


def rows(cpu: dict[str, Any], gpu: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What, measured, wanted."""
    table = [
        ("CPU: clusters + plan, times faster than loops", f"{cpu['times_faster']:.1f}", "30"),
        ("CPU: clusters + plan, times less memory", f"{cpu['times_less_memory']:.0f}", "50"),
    ]
    if not gpu["measured"]:
        return [*table, ("GPU", f"not measured: {gpu['reason']}", "")]
    small, large, whole = gpu["knorm_select_small"], gpu["knorm_select_large"], gpu["whole_selection"]
    first, last = gpu["knorm_select_growth"][0], gpu["knorm_select_growth"][-1]
    each = [1000 * point["microseconds"] / point["shape"]["V"] for point in (first, last)]
    return [
        *table,
        ("GPU: knorm_select B=1 Nkv=32 V=576, µs", f"{small['microseconds']:.1f}", "at most 12"),
        ("GPU: the same, times faster than eager torch", f"{small['times_faster_than_eager']:.1f}", "5"),
        ("GPU: B=8 Nkv=8 V=16384, share of copy bandwidth", f"{large['share_of_copy_bandwidth']:.0%}", "70%"),
        ("GPU: ns a token at V=1024 and V=131072", f"{each[0]:.2f} and {each[1]:.2f}", "not rising"),
        ("GPU: whole selection, share of 7B prefill", f"{whole['share_of_prefill']:.2%}", "below 2%"),
    ]


def main() -> None:
    cpu, gpu = selection_cpu.measure(), gpu_part()
    result = {"benchmark": "selection", "machine": machine_facts(), "cpu": cpu, "gpu": gpu}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "selection.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    for what, measured, wanted in rows(cpu, gpu):
        print(f"{what:<52}{measured:>24}   {wanted}")


if __name__ == "__main__":
    main()
