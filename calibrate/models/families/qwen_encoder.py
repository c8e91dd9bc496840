"""The blocks of a Qwen-VL vision tower, walked in a form that torch.export can trace for images of any size.

transformers cuts the patches into segments at lengths that it reads from a tensor, which a trace cannot follow. Here
each segment is a row of a padded table that comes from the host, and padding is masked.

Shape letters: U units of M patches, S segments, L slots of a segment, Nh heads, D their dim, Hv width.
"""

from typing import TYPE_CHECKING

from vitcop.calibrate.models.families.base import Encoding

if TYPE_CHECKING:
    from torch import Tensor, nn


def encode_units(
    visual: "nn.Module",
    hidden: "Tensor",
    places: "Tensor",
    tables: "list[tuple[Tensor, Tensor]]",
    plane_layers: list[int],
) -> Encoding:
    """Run the blocks; the rows of the encoding are units [U,M·Hv], one set for each plane.

    Args:
        hidden: [U,M,Hv], embedded patches.
        places: int64 [U,M,2], (row, column) of each patch for the rotary embedding.
        tables: for each block, the slots [S,L] of its segments and the places [U,M] of the patches in them, as
            `padded_segments` gives them.
        plane_layers: blocks behind which a further plane is taken, ascending.
    """
    from torch import cat

    angles = (places.unsqueeze(3).float() * visual.rotary_pos_emb.inv_freq.float()).flatten(2)
    angles = cat((angles, angles), dim=2).unsqueeze(2)
    cos, sin = angles.cos(), angles.sin()
    planes = []
    for layer, (block, (slots, place)) in enumerate(zip(visual.blocks, tables, strict=True)):
        attention = block.attn
        query, key, value = attention.qkv(block.norm1(hidden)).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        hidden = hidden + attention.proj(_attend(attention, query, key, value, slots, place))
        hidden = hidden + block.mlp(block.norm2(hidden))
        if layer in plane_layers:
            planes.append(hidden.flatten(1))
    return Encoding(
        rows=(hidden.flatten(1), *planes),
        queries=query.flatten(0, 1),
        keys=key.flatten(0, 1),
        class_query=None,
        class_keys=None,
        scale=float(attention.scaling),
    )


def _rotated(vectors: "Tensor", cos: "Tensor", sin: "Tensor") -> "Tensor":
    """Rotary embedding in fp32, as the model does it. [U,M,Nh,D], tables [U,M,1,D]."""
    from torch import cat

    first, second = vectors.float().chunk(2, dim=3)
    return (vectors.float() * cos + cat((-second, first), dim=3) * sin).to(vectors.dtype)


def _attend(
    attention: "nn.Module", query: "Tensor", key: "Tensor", value: "Tensor", slots: "Tensor", place: "Tensor"
) -> "Tensor":
    """[U,M,Nh,D] each -> [U,M,Nh·D]: every patch looks at the patches of its segment."""
    from torch.nn.functional import embedding
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    heads, dim = query.shape[2:]
    # An empty slot takes patch 0, which nobody may look at there; what the slot itself sees is never read.
    index, real = slots.clamp_min(0), slots >= 0
    rows = [
        embedding(index, each.reshape(-1, heads * dim)).unflatten(2, (heads, dim)).transpose(1, 2)
        for each in (query, key, value)
    ]
    mask = real.unsqueeze(1).unsqueeze(1).expand(-1, -1, slots.shape[1], -1)
    # transformers' eager attention would add its mask, and this one is boolean.
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, ALL_ATTENTION_FUNCTIONS["sdpa"]
    )
    out = attend(attention, *rows, attention_mask=mask, scaling=attention.scaling, dropout=0.0)[0]
    return embedding(place, out.reshape(-1, heads * dim))
