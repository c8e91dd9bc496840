"""What every way of running a model looks like from outside: the PyTorch original, PyTorch under a schedule, an engine.

`verify` holds runners against each other, `generate` and `bench` drive any of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch


@dataclass(frozen=True, kw_only=True)
class DropTrace:
    """What one drop point did.

    Args:
        kept_visual: int64 [B,K], which of the V tokens present before the drop were kept (for a merge: the token at
            whose place each merged token stands).
        scores: fp32 [B,V], where the runner can tell them (PyTorch can; an engine does not).
        assignment: fp32 [B,R,V] for a merge, where the runner can tell it: which tokens went into which.
        labels: int64 [B,K], clusters of what was kept, of a vision stage that has them and a runner that tells them.
        relabel: (row, share) -> int64 [N,K], the labels of a row when what they are found from moves at random by up to
            a share of its largest number; PyTorch can tell.
    """

    kept_visual: np.ndarray
    scores: np.ndarray | None = None
    assignment: np.ndarray | None = None
    labels: np.ndarray | None = None
    relabel: Callable[[int, float], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """The result of a prefill.

    Args:
        logits: fp32 [B,vocab] of the last position.
        state: the runner's own decode state (KV caches, masks, next position); opaque to everyone else.
        vision: what the vision stage did, or None where it kept everything.
        drops: what each drop point did, in order.
        kv_lengths: KV length of each layer group.
        kv_bytes: bytes of all keys and values held after the prefill.
        seconds: wall time of each part ("vision", "prefill"); filled by runners that can tell.
    """

    logits: np.ndarray
    state: Any
    vision: DropTrace | None = None
    drops: tuple[DropTrace, ...] = ()
    kv_lengths: tuple[int, ...] = ()
    kv_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Runner(Protocol):
    """One way of running one model, batch by batch."""

    name: str

    def prefill(self, batch: PromptBatch) -> Prefill:
        """Run vision tower and prompt; the state in the result carries the decoding on."""
        ...

    def decode(self, token_ids: np.ndarray, state: Any) -> np.ndarray:
        """Feed one token a row (int64 [B]); returns the next logits fp32 [B,vocab]. `state` moves on in place."""
        ...
