"""Driving any Runner: greedy or sampled generation, and teacher forcing. NumPy only, so that an engine needs no
torch."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Prefill, Runner
from vitcop.plugins.errors import InputError

ChooseToken = Callable[[np.ndarray], np.ndarray]
"""From logits fp32 [B,vocab] to token ids int64 [B]."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The answers of one batch.

    Args:
        tokens: of each row, the end token included where it was reached.
        finished: of each row, whether it reached an end token.
        prefill: what the prefill gave (traces, KV lengths, times); its state has moved on.
        logits: fp32 [B,T,vocab] of each step, where asked for.
        decode_seconds: wall time of each decode step, in order.
    """

    tokens: list[list[int]]
    finished: list[bool]
    prefill: Prefill
    logits: np.ndarray | None = None
    decode_seconds: list[float] = field(default_factory=list)


def greedy(logits: np.ndarray) -> np.ndarray:
    """The likeliest token of each row; of equals the lowest id."""
    return logits.argmax(axis=-1).astype(np.int64)


class Sampler:
    """Draws tokens; each row has its own random stream, so an answer does not depend on what else is in the batch.

    Args:
        temperature: above 0; 1 leaves the model's distribution.
        top_k: draw among this many likeliest tokens; 0 for no limit.
        top_p: draw among the likeliest tokens that together reach this probability, in (0, 1].
        seed: of the random streams.
    """

    def __init__(self, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        if not temperature > 0 or top_k < 0 or not 0 < top_p <= 1:
            raise InputError(
                f"sampling needs temperature > 0, top_k ≥ 0 and 0 < top_p ≤ 1, found {temperature}, {top_k}, {top_p}"
            )
        self.temperature, self.top_k, self.top_p, self.seed = temperature, top_k, top_p, seed
        self._streams: list[np.random.Generator] = []

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        while len(self._streams) < len(logits):
            self._streams.append(np.random.default_rng([self.seed, len(self._streams)]))
        return np.array(
            [self._draw(row, stream) for row, stream in zip(logits, self._streams, strict=False)], dtype=np.int64
        )

    def _draw(self, logits: np.ndarray, stream: np.random.Generator) -> int:
        order = np.argsort(-logits, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        scaled = logits[order].astype(np.float64) / self.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        # Tokens whose predecessors have not yet reached top_p; the first always stays.
        inside = np.cumsum(probabilities) - probabilities < self.top_p
        probabilities = probabilities * inside
        return int(stream.choice(order, p=probabilities / probabilities.sum()))


def generate(
    runner: Runner,
    batch: PromptBatch,
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    sampler: ChooseToken | None = None,
    keep_logits: bool = False,
) -> Generated:
    """Answer a batch of prompts, greedily unless a sampler is given; rows stop at an end token.

    A row that has ended is fed its end token again while others go on; what it yields is thrown away.
    """
    prefill = runner.prefill(batch)
    return continue_free(
        runner, prefill, max_new_tokens=max_new_tokens, eos_ids=eos_ids, sampler=sampler, keep_logits=keep_logits
    )


def continue_free(
    runner: Runner,
    prefill: Prefill,
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    sampler: ChooseToken | None = None,
    keep_logits: bool = False,
) -> Generated:
    """`generate` from a prefill on; its state moves on."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
    choose, ends = sampler or greedy, list(eos_ids)
    logits, steps, seconds = prefill.logits, [], []
    tokens: list[list[int]] = [[] for _ in logits]
    finished = np.zeros(len(tokens), dtype=bool)
    for step in range(max_new_tokens):
        if keep_logits:
            steps.append(logits)
        chosen = choose(logits)
        if step:
            chosen = np.where(finished, [row[-1] for row in tokens], chosen)
        for row in np.flatnonzero(~finished):
            tokens[row].append(int(chosen[row]))
        finished |= np.isin(chosen, ends)
        if finished.all() or step + 1 == max_new_tokens:
            break
        begun = time.perf_counter()
        logits = runner.decode(chosen.astype(np.int64), prefill.state)
        seconds.append(time.perf_counter() - begun)
    return Generated(
        tokens=tokens,
        finished=finished.tolist(),
        prefill=prefill,
        logits=np.stack(steps, axis=1) if keep_logits else None,
        decode_seconds=seconds,
    )


def continue_forced(runner: Runner, prefill: Prefill, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """Logits fp32 [B,T,vocab] with the given answer tokens fed in: entry t of a row is what the runner says before its
    token t.

    Rows may differ in length; T is the longest, and what stands beyond a row's own length means nothing.
    """
    length = max(len(row) for row in tokens)
    fed_BT = np.zeros((len(tokens), length), dtype=np.int64)
    for row, ids in enumerate(tokens):
        fed_BT[row, : len(ids)] = ids
    parts = [prefill.logits[:, None]]
    if length > 1 and hasattr(runner, "extend"):
        parts.append(runner.extend(fed_BT[:, :-1], prefill.state))
    else:
        parts += [runner.decode(fed_BT[:, step], prefill.state)[:, None] for step in range(length - 1)]
    return np.concatenate(parts, axis=1)


def teacher_forced(runner: Runner, batch: PromptBatch, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """Prefill, then `continue_forced`."""
    return continue_forced(runner, runner.prefill(batch), tokens)
