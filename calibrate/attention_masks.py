"""Attention masks as each attention implementation of transformers takes them.

The decoder layers are called one by one, so the mask is ours to make. Padding stands on the left; a token sees the real
tokens up to its own place.
"""

import torch


def causal_mask(
    real_BK: torch.Tensor, num_queries: int, implementation: str, dtype: torch.dtype
) -> torch.Tensor | None:
    """The mask for the last `num_queries` of K places.

    Args:
        real_BK: bool [B,K], True at real tokens.
        implementation: `config._attn_implementation` of the decoder.
        dtype: of the hidden states.

    Returns bool [B,1,Q,K] for sdpa, an additive mask of that shape for eager, and for FlashAttention, which is causal
    by itself, the padding [B,K], or None where nothing is padded.
    """
    if implementation == "flash_attention_2":
        return None if bool(real_BK.all()) else real_BK.long()
    places_K = torch.arange(real_BK.shape[1], device=real_BK.device)
    queries_Q = places_K[-num_queries:]
    causal_QK = queries_Q[:, None] >= places_K
    # A row of padding would attend to nothing, and a softmax over nothing is NaN: it sees itself.
    allowed_BQK = (causal_QK & real_BK[:, None]) | (queries_Q[:, None] == places_K)
    if implementation == "sdpa":
        return allowed_BQK.unsqueeze(1)
    assert implementation == "eager", implementation
    additive = torch.zeros_like(allowed_BQK, dtype=dtype)
    return additive.masked_fill(~allowed_BQK, torch.finfo(dtype).min).unsqueeze(1)
