"""Blocks of queries give what one Attention over all queries gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from vitcop.export.runtimes.onnxruntime.causal_blocks import BLOCKS, SHORTEST, cut_into_causal_blocks

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16

TWO_LAYERS = f"""
<ir_version: 10, opset_import: ["" : 23]>
prefill (float[B,{HEADS},S,{HEAD_DIM}] query, float[B,{KV_HEADS},S,{HEAD_DIM}] key,
         float[B,{KV_HEADS},S,{HEAD_DIM}] value, bool[B,1,S,S] mask) => (float[B,{HEADS},S,{HEAD_DIM}] second)
{{
    first = Attention<scale = 0.3>(query, key, value, mask)
    second = Attention(first, key, value, mask)
}}
"""
NO_MASK = TWO_LAYERS.replace(", mask)\n    second", ")\n    second").replace("key, value, mask)\n}", "key, value)\n}")


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def prompt(length: int, padding: tuple[int, ...], window: int | None = None) -> dict[str, np.ndarray]:
    """Random keys, queries and values under a causal mask; row b has padding[b] masked columns on the left."""
    stream = np.random.default_rng(length)
    place = np.arange(length)
    reach = place[:, None] - place
    causal = (reach >= 0) & (reach < (window or length))
    real = place >= np.array(padding)[:, None]
    # As the exported graphs have it: a row that sees nothing sees itself, or softmax would divide by zero.
    mask = (causal & real[:, None, :]) | np.eye(length, dtype=bool)
    heads = {"query": HEADS, "key": KV_HEADS, "value": KV_HEADS}
    feeds = {
        name: stream.standard_normal((len(padding), count, length, HEAD_DIM), dtype=np.float32)
        for name, count in heads.items()
    }
    return {**feeds, "mask": mask[:, None]}


@pytest.mark.parametrize("length", [1, BLOCKS - 1, SHORTEST - 1, SHORTEST, SHORTEST + 5, 2 * SHORTEST + BLOCKS - 1])
@pytest.mark.parametrize("window", [None, 40])
def test_blocks_equal_the_whole(length: int, window: int | None) -> None:
    model = parser.parse_model(TWO_LAYERS)
    padding = tuple(min(length, pad) for pad in (0, 7, 130))
    feeds = prompt(length, padding, window)
    whole = run(model, feeds)
    cut_into_causal_blocks(model)
    onnx.checker.check_model(model)
    real = np.arange(length) >= np.array(padding)[:, None]
    np.testing.assert_allclose(run(model, feeds).swapaxes(1, 2)[real], whole.swapaxes(1, 2)[real], rtol=1e-5, atol=1e-6)


def test_blocks_multiply_little_of_the_masked_half() -> None:
    model = parser.parse_model(TWO_LAYERS)
    cut_into_causal_blocks(model)
    choices = [node for node in model.graph.node if node.op_type == "If"]
    assert [node.output[0] for node in choices] == ["first", "second"]
    for choice in choices:
        branches = {item.name: [node.op_type for node in item.g.node] for item in choice.attribute}
        assert branches["then_branch"].count("Attention") == BLOCKS
        assert branches["else_branch"] == ["Attention"]
    # Both layers share one cut of the mask: two slices a block.
    assert [node.op_type for node in model.graph.node].count("Slice") == 2 * BLOCKS


def test_a_graph_without_masks_stays_as_it_is() -> None:
    model = parser.parse_model(NO_MASK)
    before = model.SerializeToString()
    cut_into_causal_blocks(model)
    assert model.SerializeToString() == before
