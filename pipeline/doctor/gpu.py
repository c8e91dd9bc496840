"""GPU, driver, CUDA and compiler, as the machine tells them without torch being imported and without a CUDA context."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from vitcop.export.programs import output


def driver() -> str | None:
    """The driver's version and the newest CUDA that it runs: "580.65.06 (runs CUDA up to 13.0)"."""
    versions = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split()
    if not versions:
        return None
    newest = re.search(r"CUDA Version:\s*([\d.]+)", output("nvidia-smi"))
    return f"{versions[0]} (runs CUDA up to {newest[1]})" if newest else versions[0]


def gpus() -> str | None:
    """Each GPU with its architecture and memory: "NVIDIA H200 (sm_90, 143771 MiB)"; None where there is none."""
    lines = output("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader").splitlines()
    found = [[cell.strip() for cell in line.split(",")] for line in lines]
    cards = [f"{row[0]} (sm_{row[1].replace('.', '')}, {row[2]})" for row in found if len(row) == 3]
    return (
        "; ".join(f"{cards.count(card)}x {card}" if cards.count(card) > 1 else card for card in dict.fromkeys(cards))
        or None
    )


def nvcc() -> str | None:
    """The compiler's release: "release 13.0, V13.0.88"."""
    found = re.search(r"release .*", output("nvcc", "--version"))
    return found[0].strip() if found else None


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, read from its version file; None for a build without CUDA."""
    spec = find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / "version.py").is_file():
        return None
    tree = ast.parse((folder / "version.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
            value = ast.literal_eval(node.value)
            return None if value is None else str(value)
    return None
