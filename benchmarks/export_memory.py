"""What exporting a 7B model costs: time, resident memory and bytes on disk, on a generated checkpoint of sparse files.

python benchmarks/export_memory.py [--schedule paper-1/3] [--folder DIR]

The export runs in a process of its own, from its first import to the renamed bundle. Peak memory is the kernel's
high-water mark of that process's resident pages (VmHWM): anonymous memory and mapped pages of files that were touched,
libraries included. What the process reads with read(), such as the shards while they are hashed, passes through the
page cache of the system, which can be taken back at any time and counts for no process.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import sparse_checkpoint

HERE = Path(__file__).parent
TARGETS = {"wall_seconds": 480, "peak_resident_bytes": 1_500_000_000, "added_bytes": 20_000_000}
PARTS = ("vision", "prefill", "decode")


class Clock:
    """Seconds and memory at the borders between parts. It stands in for the progress bar, which is told of them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.names = list(PARTS)
        self.wall, self.cpu = perf_counter(), process_time()

    def start(self, total: int, title: str) -> None:
        self.mark("skeleton")

    def advance(self) -> None:
        self.mark(self.names.pop(0))

    def mark(self, part: str) -> None:
        """The part that ends here."""
        wall, cpu = perf_counter(), process_time()
        row = {"part": part, "wall_seconds": wall - self.wall, "cpu_seconds": cpu - self.cpu, **resident()}
        self.rows.append(row)
        self.wall, self.cpu = wall, cpu


def resident() -> dict[str, int]:
    """Bytes of this process in memory: the peak so far, and now by kind."""
    text = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    keys = {"peak_resident_bytes": "VmHWM", "anonymous_bytes": "RssAnon", "mapped_bytes": "RssFile"}
    return {name: 1024 * int(text[key].split()[0]) for name, key in keys.items()}


def child(model_dir: Path, schedule_name: str, out: Path) -> None:
    """Export, and print what each part took as one line of JSON."""
    clock = Clock()
    from vitcop.calibrate.schedule.presets import preset
    from vitcop.export.compile import export_bundle

    clock.mark("import")
    num_visual = (sparse_checkpoint.IMAGE // sparse_checkpoint.PATCH) ** 2
    export_bundle(model_dir, preset(schedule_name, sparse_checkpoint.LAYERS, num_visual), out, progress=clock)
    clock.mark("hashes and files")
    print(json.dumps(clock.rows))


def measure(model_dir: Path, schedule_name: str, out: Path) -> dict[str, Any]:
    """Run the export in a child process."""
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", model_dir, out, "--schedule", schedule_name],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    wall = perf_counter() - start
    rows = json.loads(done.stdout.splitlines()[-1])
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return {
        "schedule": schedule_name,
        "parts": rows,
        "wall_seconds": wall,
        "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        "peak_resident_bytes": rows[-1]["peak_resident_bytes"],
        "added_bytes": sum(files.values()),
        "files": files,
        "nodes": {part: _nodes(out / f"{part}.onnx") for part in PARTS},
    }


def _nodes(path: Path) -> dict[str, Any]:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    names = (f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
    return {"total": len(nodes), "by_op": dict(sorted(Counter(names).items()))}


def _checkpoint_facts(folder: Path) -> dict[str, int]:
    shards = [path.stat() for path in sorted(folder.glob("*.safetensors"))]
    return {
        "shards": len(shards),
        "weight_bytes": sum(shard.st_size for shard in shards),
        "bytes_on_disk": sum(512 * shard.st_blocks for shard in shards),
    }


def report(row: dict[str, Any]) -> None:
    """Print one run."""
    print(
        f"{row['schedule']}\n{'part':<18}{'wall s':>9}{'CPU s':>9}{'peak MB':>10}{'anonymous MB':>14}{'mapped MB':>11}"
    )
    for part in row["parts"]:
        megabytes = [part[name] / 1e6 for name in ("peak_resident_bytes", "anonymous_bytes", "mapped_bytes")]
        print(f"{part['part']:<18}{part['wall_seconds']:>9.1f}{part['cpu_seconds']:>9.1f}", end="")
        print(f"{megabytes[0]:>10.0f}{megabytes[1]:>14.0f}{megabytes[2]:>11.0f}")
    for name, limit in TARGETS.items():
        print(f"{name:<24}{row[name]:>16,.0f}   wanted: below {limit:,}")
    print(f"{'nodes':<24}" + ", ".join(f"{part} {row['nodes'][part]['total']}" for part in PARTS))


def main() -> None:
    """Print the tables and write results/export_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", action="append", help="a preset; may be given more than once (default paper-1/3)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go; needs sparse files")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    schedules = arguments.schedule or ["paper-1/3"]
    if arguments.child:
        child(arguments.child[0], schedules[0], arguments.child[1])
        return
    with TemporaryDirectory(dir=arguments.folder) as work:
        model_dir = sparse_checkpoint.build(Path(work) / "llava-7b-shaped")
        facts = _checkpoint_facts(model_dir)
        print("{weight_bytes:,} bytes of weights in {shards} shards, {bytes_on_disk:,} on disk".format(**facts))
        rows = []
        for name in schedules:
            rows.append(measure(model_dir, name, Path(work) / name.replace("/", "-")))
            report(rows[-1])
    # Imported last: a child's memory is its own, but a small parent disturbs the measurement least.
    from vitcop.export.measure import machine_facts

    result = {"benchmark": "export_memory", "machine": machine_facts(), "checkpoint": facts, "targets": TARGETS}
    result |= {"load_average": os.getloadavg()[0], "runs": rows}
    (HERE / "results" / "export_memory.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
