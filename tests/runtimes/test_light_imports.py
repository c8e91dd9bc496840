"""Reading and running a bundle needs neither torch nor transformers."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import vitcop.export.bundle, vitcop.export.runtimes, vitcop.export.measure
heavy = {"torch", "transformers", "onnx", "onnxruntime", "scipy"} & set(sys.modules)
assert not heavy, heavy
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy_bundle import toy_batch, toy_model_folder, write_toy
from vitcop.export.runtimes import open_target
folder = Path(sys.argv[2])
bundle = write_toy(folder / "b", toy_model_folder(folder / "model"))
target = open_target("onnxruntime")
target.build(bundle)
target.runner(bundle).prefill(toy_batch(2))
heavy = {"torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_no_torch_from_bundle_to_answer(tmp_path):
    toys = Path(__file__).parents[1] / "bundle"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toys), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
