"""The token-dropping kernels on a GPU: each over a captured CUDA graph, beside what it is measured against.

Every time is the median over replays of a graph, by CUDA events, so no launch gap of Python counts.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from vitcop.plugins import ops, selection

REPLAYS, ROUNDS = 50, 15
"""Replays between two events, and how often that is measured."""

BF16 = torch.bfloat16


def microseconds(body: Callable[[], Any]) -> float:
    """Median time of one replay of `body`."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        body()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(ROUNDS + 1):
        start.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(1000 * start.elapsed_time(end) / REPLAYS)
    return statistics.median(times[1:])


def copy_bandwidth() -> float:
    """Bytes read and written a second by a device-to-device copy of 2 GiB."""
    source = torch.randint(0, 255, (2**31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (1e-6 * microseconds(lambda: target.copy_(source)))


def visual_tokens(batch: int, num_visual: int, num_text: int) -> torch.Tensor:
    """Positions of the visual tokens: in one piece, behind a third of the text."""
    first = num_text // 3
    return torch.arange(first, first + num_visual, device="cuda").repeat(batch, 1)


def eager_select(keys: torch.Tensor, visual_index: torch.Tensor, num: int, den: int) -> tuple[torch.Tensor, ...]:
    """KNormSelect in plain torch calls, without the checks of the reference."""
    norms = keys.float().mean(dim=1).square().sum(dim=2).sqrt()
    kept = selection.pick(norms.gather(1, visual_index), (num, den), largest=False)
    return kept, *selection.after_drop(kept, visual_index, keys.shape[2])


def knorm_select(batch: int, num_kv_heads: int, num_visual: int, num_text: int = 64) -> dict[str, Any]:
    """One shape at D = 128 in bf16: half of the tokens stay."""
    keys = torch.randn(batch, num_kv_heads, num_visual + num_text, 128, device="cuda", dtype=BF16)
    index = visual_tokens(batch, num_visual, num_text)
    ours = microseconds(lambda: ops.knorm_select(keys, index, keep=(1, 2)))
    scores = microseconds(lambda: ops.knorm_scores(keys, index))
    eager = microseconds(lambda: eager_select(keys, index, 1, 2))
    num_bytes = batch * num_kv_heads * num_visual * 128 * 2
    return {
        "shape": {"B": batch, "Nkv": num_kv_heads, "V": num_visual, "D": 128},
        "microseconds": ours,
        "microseconds_of_norms": scores,
        "microseconds_eager": eager,
        "times_faster_than_eager": eager / ours,
        "bytes_of_keys": num_bytes,
        "bytes_per_second": num_bytes / (1e-6 * ours),
    }


def whole_selection() -> tuple[Callable[[], Any], dict[str, int]]:
    """All that a 7B model with the budget 1/3 does to drop tokens: saliency, clusters, two drops, gathers of rows."""
    patches, first, second, third, hidden, num_text = 576, 288, 253, 51, 4096, 64
    query, vision_keys = (torch.randn(1, 16, n, 64, device="cuda", dtype=BF16) for n in (1, 1 + patches))
    features = torch.randn(1, first, 1024, device="cuda", dtype=BF16)
    grid = torch.rand(1, first, 2, device="cuda")
    keys = torch.randn(1, 32, first + num_text, 128, device="cuda", dtype=BF16)
    states = torch.randn(1, first + num_text, hidden, device="cuda", dtype=BF16)
    index = visual_tokens(1, first, num_text)
    later_keys = torch.randn(1, 32, second + num_text, 128, device="cuda", dtype=BF16)
    later_states = torch.randn(1, second + num_text, hidden, device="cuda", dtype=BF16)
    later_index = visual_tokens(1, second, num_text)
    rows = torch.zeros(1, 1, dtype=torch.int64, device="cuda")

    def body() -> None:
        saliency = ops.vision_saliency(query[:, :, 0], vision_keys)
        ops.score_select(saliency, visual_tokens_of_tower, patches, keep=first, order="largest")
        labels = ops.density_peak_clusters(features, grid, centers=(18, 100))
        scores = ops.knorm_scores(keys, index)
        ops.cluster_merge(states, index, scores, labels, num_clusters=(18, 100), keep=second)
        positions = ops.knorm_select(later_keys, later_index, keep=third)[0]
        later_states[rows, positions]

    visual_tokens_of_tower = torch.arange(patches, device="cuda").unsqueeze(0)
    return body, {"patches": patches, "V": first, "R": second, "K": third, "H": hidden, "text": num_text}


def prefill_of_7b(num_tokens: int) -> Callable[[], Any]:
    """The matrix products and attention of 32 decoder layers of a 7B Llama, without norms and rotary embedding (so that
    it is, if anything, too fast). All layers share one layer's weights, 405 MB: no cache holds them."""
    hidden, middle, heads = 4096, 11008, 32

    def weight(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device="cuda", dtype=BF16) / rows**0.5

    qkv, out = weight(hidden, 3 * hidden), weight(hidden, hidden)
    gate_up, down = weight(hidden, 2 * middle), weight(middle, hidden)
    start = torch.randn(1, num_tokens, hidden, device="cuda", dtype=BF16)

    def body() -> torch.Tensor:
        states = start
        for _ in range(32):
            q, k, v = (states @ qkv).view(1, num_tokens, 3, heads, hidden // heads).permute(2, 0, 3, 1, 4)
            mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            states = mixed.transpose(1, 2).reshape(1, num_tokens, hidden) @ out
            gate, up = (states @ gate_up).chunk(2, dim=2)
            states = (torch.nn.functional.silu(gate) * up) @ down
        return states

    return body


def measure() -> dict[str, Any]:
    """All figures that the GPU targets speak of."""
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    small, large = knorm_select(1, 32, 576), knorm_select(8, 8, 16384)
    large["share_of_copy_bandwidth"] = large["bytes_per_second"] / bandwidth
    growth = [knorm_select(1, 8, 2**exponent) for exponent in range(10, 18)]
    selection_body, shape = whole_selection()
    selection_us = microseconds(selection_body)
    prefill_us = microseconds(prefill_of_7b(576 + 64))
    return {
        "copy_bytes_per_second": bandwidth,
        "knorm_select_small": small,
        "knorm_select_large": large,
        "knorm_select_growth": growth,
        "whole_selection": {
            "shape": shape,
            "microseconds": selection_us,
            "microseconds_of_unpruned_prefill": prefill_us,
            "share_of_prefill": selection_us / prefill_us,
        },
    }
