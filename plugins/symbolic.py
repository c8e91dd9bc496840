"""Output sizes of the ops under torch.export, where V and S are symbols."""

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from vitcop.plugins.spec import Fraction, keep_count


def symbolic_keep_count(num_visual: int | torch.SymInt, keep: Fraction) -> int | torch.SymInt:
    """`keep_count` that sets no guard on a symbol.

    The expression stays `V·num // den` wherever the range of V says that this is at least 1 (a dim with a large
    enough minimum), since a min or max would turn up in every shape behind the drop point. Where K may be 1,
    torch.export itself adds the assumption K != 1 (it asks whether the outputs are contiguous): give V a larger
    minimum, or export under `torch.fx.experimental._config.patch(backed_size_oblivious=True)`.
    """
    if isinstance(num_visual, int):
        return keep_count(num_visual, keep)
    num, den = keep
    if num >= den:
        return num_visual
    share = num_visual * num // den
    if statically_known_true(share >= 1):
        return share
    if statically_known_true(num_visual >= 1):
        return torch.sym_max(1, share)
    return torch.sym_min(num_visual, torch.sym_max(1, share))
