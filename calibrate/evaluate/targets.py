"""What the original answers: its greedy tokens and, before each, its likeliest tokens with their log-probabilities."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitcop.calibrate.core.store import write_atomically
from vitcop.calibrate.core.strict_json import read_object, to_json
from vitcop.calibrate.data.samples import Sample
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.run.logits import log_softmax
from vitcop.calibrate.run.runner import Runner
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Target:
    """The original's answer to one sample, T tokens long.

    Args:
        tokens: int64 [T], the end token included where it was reached.
        top_ids: int64 [T,k], the likeliest tokens before each, likeliest first.
        top_logprobs: fp32 [T,k].
        rest: fp32 [T], probability of all other tokens together.
    """

    tokens: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    rest: np.ndarray


def target_of(tokens: Sequence[int], logits: np.ndarray, top_k: int) -> Target:
    """From the logits [T,vocab] before each of T tokens."""
    logprobs = log_softmax(logits)
    top_ids = np.argsort(-logprobs, axis=-1, kind="stable")[:, :top_k]
    top_logprobs = np.take_along_axis(logprobs, top_ids, axis=-1)
    return Target(
        tokens=np.asarray(tokens, dtype=np.int64),
        top_ids=top_ids.astype(np.int64),
        top_logprobs=top_logprobs.astype(np.float32),
        rest=np.maximum(0.0, 1.0 - np.exp(top_logprobs).sum(axis=-1)).astype(np.float32),
    )


def compute_targets(
    runner: Runner,
    prepared: Sequence[tuple[list[Sample], PromptBatch]],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    top_k: int = 64,
) -> dict[str, Target]:
    """Targets by sample id."""
    targets: dict[str, Target] = {}
    for samples, batch in prepared:
        answer = generate(runner, batch, max_new_tokens=max_new_tokens, eos_ids=eos_ids, keep_logits=True)
        assert answer.logits is not None, "asked for"
        for sample, tokens, logits_TX in zip(samples, answer.tokens, answer.logits, strict=True):
            targets[sample.id] = target_of(tokens, logits_TX[: len(tokens)], top_k)
    return targets


def save_targets(targets: dict[str, Target], path: Path) -> None:
    """Write `path` (safetensors: all tokens one after another) and, beside it, `path`.json with ids and lengths."""
    from safetensors.numpy import save

    parts = list(targets.values())
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("tokens", "top_ids", "top_logprobs", "rest")
    }
    write_atomically(path, save(arrays))
    index = {"ids": list(targets), "lengths": [len(part.tokens) for part in parts]}
    write_atomically(path.with_name(path.name + ".json"), to_json(index).encode())


def load_targets(path: Path) -> dict[str, Target]:
    """Read what `save_targets` wrote. Raises InputError where the files do not fit together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        index = read_object(path.with_name(path.name + ".json"))
        arrays = load_file(path)
        cuts = np.cumsum(index["lengths"])[:-1]
        columns = [np.split(arrays[name], cuts) for name in ("tokens", "top_ids", "top_logprobs", "rest")]
        if sum(index["lengths"]) != len(arrays["tokens"]):
            raise ValueError("lengths do not add up")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot read the original's answers ({error}); delete the file to compute them again"
        ) from None
    return {
        sample_id: Target(tokens=tokens, top_ids=ids, top_logprobs=logprobs, rest=rest)
        for sample_id, tokens, ids, logprobs, rest in zip(index["ids"], *columns, strict=True)
    }
