"""The least time that a prefill can take on a card of given peaks: layer by layer, whichever of arithmetic and memory
takes longer. No torch.

    seconds = Σ over layers of max(flops / peak_flops, bytes / peak_bytes)

Each layer of tower and decoder, the patch embedding, both products of the projector and the head count as a layer;
selectors, norms, rotary embedding and softmax count for nothing, so a real run is slower. B prompts of n tokens, hidden
size d, MLP width m, Nh query and Nkv key-value heads of size D, two FLOPs for each multiply-accumulate, a bytes per
value:

    decoder   FLOPs as in vitcop.calibrate.schedule.cost, B times
              weights      a·(2·d·D·(Nh + Nkv) + 3·d·m)
              activations  a·B·n·(4·d + 2·(Nh + 2·Nkv)·D + 2·Nh·D + 6·m)
    tower     B·(8·n·d² + 4·n²·d + 4·n·d·m) FLOPs
              weights      a·(4·d² + 2·d·m)
              activations  a·B·n·(12·d + 4·m)

Weights are read once for the whole batch. Activations: each product reads its input and writes its output once (query,
key and value from one input, gate and up from another), and so do attention and activation function; the keys and
values written into the cache are among them. The tower's last layer does not count, since the projector reads the
output of the one before it, and the projector counts for the kept patches alone, though PyTorch runs it for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitcop.calibrate.schedule.cost import DecoderShape, layer_flops
from vitcop.calibrate.schedule.schedule import Schedule


@dataclass(frozen=True)
class Peaks:
    """FLOP/s and bytes/s (read and written together) that a card reaches, as measured."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of one layer."""

    flops: int
    bytes: int

    def seconds(self, peaks: Peaks) -> float:
        """The longer of both times."""
        return max(self.flops / peaks.flops, self.bytes / peaks.bytes)


def roofline_seconds(work: Sequence[Work], peaks: Peaks) -> float:
    """Layers follow each other, so their times add up."""
    return sum(layer.seconds(peaks) for layer in work)


def prefill_work(
    config: Any, schedule: Schedule, *, batch: int, num_visual: int, num_text: int, value_bytes: int
) -> list[Work]:
    """All layers of one prefill of a LLaVA, one image to a prompt.

    Args:
        config: LlavaConfig with a CLIP tower and a Llama.
        value_bytes: of a weight, an activation and a cached value (2 for bf16).
    """
    decoder, counts = DecoderShape.from_config(config), schedule.layer_counts(num_visual)
    return [
        *_vision(config, decoder.hidden, batch, num_visual, counts[0], value_bytes),
        *(_decoder_layer(decoder, batch, count + num_text, value_bytes) for count in counts),
        _product(batch, decoder.hidden, decoder.vocab, value_bytes),
    ]


def _decoder_layer(shape: DecoderShape, batch: int, tokens: int, value_bytes: int) -> Work:
    d, queries, keys = shape.hidden, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    weights = 2 * d * (queries + keys) + 3 * d * shape.intermediate
    activations = 4 * d + 2 * (queries + 2 * keys) + 2 * queries + 6 * shape.intermediate
    return Work(batch * layer_flops(shape, tokens), value_bytes * (weights + batch * tokens * activations))


def _vision(config: Any, hidden: int, batch: int, num_visual: int, num_kept: int, value_bytes: int) -> list[Work]:
    tower = config.vision_config
    d, m, tokens = tower.hidden_size, tower.intermediate_size, num_visual + 1
    layer = Work(
        batch * (8 * tokens * d**2 + 4 * tokens**2 * d + 4 * tokens * d * m),
        value_bytes * (4 * d**2 + 2 * d * m + batch * tokens * (12 * d + 4 * m)),
    )
    return [
        _product(batch * num_visual, tower.num_channels * tower.patch_size**2, d, value_bytes),
        *[layer] * (tower.num_hidden_layers - 1),
        _product(batch * num_kept, d, hidden, value_bytes),
        _product(batch * num_kept, hidden, hidden, value_bytes),
    ]


def _product(rows: int, inner: int, outer: int, value_bytes: int) -> Work:
    """A matrix product [rows,inner]·[inner,outer]."""
    return Work(2 * rows * inner * outer, value_bytes * (inner * outer + rows * (inner + outer)))
