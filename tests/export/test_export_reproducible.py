"""Two exports of one model in two processes are the same bytes, whether captures were shared or not."""

import os
import subprocess
import sys

from export_cases import ONE_MERGE

from vitcop.export.bundle import GRAPHS

SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from pathlib import Path
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.compile import export_bundle
export_bundle(Path(sys.argv[1]), Schedule.load(Path(sys.argv[2])), Path(sys.argv[3]), copy_weights=True)
"""


def test_another_process_writes_the_same_bytes(two_layers, merged, tmp_path):
    """Another hash seed, and nothing exported or traced before."""
    file = tmp_path / "schedule.json"
    file.write_text(ONE_MERGE.to_json(), encoding="utf-8")
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, two_layers, file, tmp_path / "again"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
    )
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    # A runtime may have built an engine into the first one since.
    first = {path.name: path.read_bytes() for path in merged.bundle.path.iterdir() if path.is_file()}
    assert {"manifest.json", "schedule.json", *(f"{part}.onnx" for part in GRAPHS)} <= again.keys()
    assert again.keys() == first.keys()
    for name, content in again.items():
        assert content == first[name], f"{name} differs"
