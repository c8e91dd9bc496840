"""Attention masks as each attention implementation of transformers takes them.

The decoder layers are called one by one, so the mask is ours to make. Padding stands on the left; a token sees the real
tokens up to its own place, and through a sliding window of W only those less than W places back. Places are those of
the full prompt: where tokens were dropped, a window holds fewer tokens but reaches no further.
"""

import torch


def causal_mask(
    real_BK: torch.Tensor,
    num_queries: int,
    implementation: str,
    dtype: torch.dtype,
    *,
    window: int | None = None,
    places_BK: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The mask for the last `num_queries` of K tokens.

    Args:
        real_BK: bool [B,K], True at real tokens.
        window: W of a layer with a sliding window.
        places_BK: int64 [B,K], the place of each token in its full prompt; read where there is a window.
        implementation: `config._attn_implementation` of the decoder.
        dtype: of the hidden states.

    Returns bool [B,1,Q,K] for sdpa, an additive mask of that shape for eager, and for FlashAttention, which is causal
    by itself, the padding [B,K], or None where nothing is padded.
    """
    if implementation == "flash_attention_2":
        assert window is None, "FlashAttention counts a window in tokens present, not in places"
        return None if bool(real_BK.all()) else real_BK.long()
    order_K = torch.arange(real_BK.shape[1], device=real_BK.device)
    queries_Q = order_K[-num_queries:]
    seen_BQK = (queries_Q[:, None] >= order_K) & real_BK[:, None]
    if window is not None:
        assert places_BK is not None, "a window is counted in places"
        seen_BQK &= places_BK[:, -num_queries:, None] - places_BK[:, None] < window
    # A row of padding would attend to nothing, and a softmax over nothing is NaN: it sees itself.
    allowed_BQK = seen_BQK | (queries_Q[:, None] == order_K)
    if implementation == "sdpa":
        return allowed_BQK.unsqueeze(1)
    assert implementation == "eager", implementation
    additive = torch.zeros_like(allowed_BQK, dtype=dtype)
    return additive.masked_fill(~allowed_BQK, torch.finfo(dtype).min).unsqueeze(1)
