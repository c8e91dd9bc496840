"""The rewritten graphs as text, frozen.

VITCOP_UPDATE_GOLDEN=1 writes the files anew; read the difference before you commit it.
"""

import os
from collections import Counter
from pathlib import Path

import onnx
import pinned_releases
import pytest
from export_cases import PAPER, split_cache, vision_stage
from graph_text import added_text

from vitcop.export.bundle import GRAPHS

GOLDEN = Path(__file__).parent / "golden"
OTHERS = pinned_releases.differing("torch", "transformers")

pytestmark = pytest.mark.skipif(
    bool(OTHERS),
    reason=f"the model's own code differs between releases, and the texts are of constraints.txt's: here is {OTHERS}",
)


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("VITCOP_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_vision_stage(captured):
    compare("vision-stage.txt", added_text(captured.graphs["vision"], vision_stage(captured, PAPER)))


def test_prefill_with_a_merge_and_a_selection(captured, paper_drops):
    compare("prefill-drops.txt", added_text(captured.graphs["prefill"], paper_drops))


def test_decode_with_three_groups(captured):
    compare("decode-groups.txt", added_text(captured.graphs["decode"], split_cache(captured, PAPER)))


def test_onnx_op_counts(plain, merged):
    lines = []
    for title, exported in (("plain", plain), ("vision stage and one merge", merged)):
        for part in GRAPHS:
            nodes = onnx.load(exported.bundle.graph(part), load_external_data=False).graph.node
            counts = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in nodes)
            lines += [f"{title}, {part}: {len(nodes)} nodes", *(f"  {op} {n}" for op, n in sorted(counts.items())), ""]
    compare("onnx-ops.txt", "\n".join(lines))
