"""How much an answer depends on each visual token: by attention, which is cheap, and by gradients, which check it.

Shape letters: B batch, X tokens of prompt and answer, T answer tokens, V visual tokens, H hidden, Nh query heads, Nkv
key-value heads, D head dim, L decoder layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from vitcop.calibrate.observe.teacher_forcing import Forced, LayerPass, walk
from vitcop.calibrate.run.attention_masks import causal_mask
from vitcop.calibrate.run.device_inputs import places_of

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


def answer_attention(seen: LayerPass, forced: Forced, *, window: int | None) -> torch.Tensor:
    """Attention that the answer pays to each visual token in one layer: fp32 [B,V].

    The rows are those that tell an answer token: the last prompt token, and every answer token but the last. Softmax
    over all tokens that the row sees, summed over heads, mean over the rows. Only these rows are computed.

    Args:
        window: of a layer with a sliding window, else None.
    """
    prompt, num_rows = forced.prompt, forced.answers.shape[1]
    mask_B1TX = causal_mask(
        prompt.mask, num_rows, "eager", torch.float32, window=window, places_BK=places_of(prompt.positions)
    )
    assert mask_B1TX is not None, "eager attention always has a mask"
    batch, num_heads, _, head_dim = seen.queries.shape
    num_kv_heads = seen.keys.shape[1]
    grouped = (batch, num_kv_heads, num_heads // num_kv_heads, num_rows, head_dim)
    queries = seen.queries[:, :, -num_rows:].float().reshape(grouped)
    logits = torch.matmul(queries, seen.keys.float().unsqueeze(2).transpose(3, 4)) * seen.scale
    attention_BTX = (logits + mask_B1TX.unsqueeze(1)).softmax(dim=-1).sum(dim=(1, 2))
    share_BT = forced.told / forced.told.sum(dim=1, keepdim=True)
    return torch.matmul(share_BT.unsqueeze(1), attention_BTX).squeeze(1).gather(1, prompt.visual_index)


def remaining(attention_LBV: torch.Tensor) -> torch.Tensor:
    """What a drop before layer l takes away: the sum of the layers from l on, [L,B,V]."""
    return attention_LBV.flip(0).cumsum(0).flip(0)


def gradient_times_input(model: Any, family: "Family", forced: Forced, planes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Σ_H |∂ log p(answer) / ∂h · h| of each visual token's hidden state before each layer: fp32 [L,B,V].

    The log-probability is of the whole answer, fed in. The absolute value stands inside the sum, since decoder layers
    norm what they read: a hidden state's scale hardly matters to what comes after (before the last layer not at all),
    so by Euler's theorem the plain sum is about zero for every token. Features that the first layers add later on
    (DeepStack) are not counted to earlier layers.
    """
    with torch.inference_mode(False), torch.enable_grad(), _frozen(model):
        hidden: list[torch.Tensor] = []
        # Vision outputs are inference tensors, which no graph may hold; their copies may.
        free = [plane.clone() for plane in planes]
        logits = walk(model, family, forced, free, lambda seen: hidden.append(seen.hidden))
        logprobs_BTX = logits.float().log_softmax(dim=-1)
        told = logprobs_BTX.gather(2, forced.answers.unsqueeze(-1)).squeeze(-1)
        gradients = torch.autograd.grad((told * forced.told).sum(), hidden)
        index_BV1 = forced.prompt.visual_index.unsqueeze(-1)
        parts = [
            (gradient.float() * entered.detach().float()).abs().sum(dim=-1, keepdim=True).gather(1, index_BV1)
            for gradient, entered in zip(gradients, hidden, strict=True)
        ]
        return torch.stack(parts).squeeze(-1)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No parameter wants a gradient inside, so that linear layers need not remember what they were given."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
