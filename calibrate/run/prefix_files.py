"""Prefixes of the unpruned model on disk: one safetensors file for each batch and candidate layer, holding what was
added since the candidate layer before it, so that keys and values are there once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitcop.calibrate.core.store import key_of, write_atomically
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.device_inputs import PromptTensors, places_of
from vitcop.calibrate.run.prefix import Prefix
from vitcop.calibrate.run.stream import Stream
from vitcop.calibrate.schedule.schedule import Schedule

FOLDER = "prefixes"


class PrefixFiles:
    """Files below `folder`, of at most `limit_bytes` together.

    A file that is half written, of something else, or for other shapes is computed anew and replaced. Once the limit is
    reached nothing more is written; several processes that write at the same moment may each go over it by one file.

    Args:
        base: what a prefix depends on beside the batch (weights, versions, precision, threads); JSON.
        num_layers: L of the model.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, base: Any, num_layers: int) -> None:
        self.folder, self.limit_bytes = Path(folder) / FOLDER, limit_bytes
        self._base, self._unpruned = base, Schedule(num_layers=num_layers)
        self._digests: dict[int, tuple[Any, str]] = {}

    def get(self, batch: PromptBatch, layer: int, start: Prefix | None, device: torch.device) -> Prefix | None:
        """The prefix of a batch before `layer`, going on from `start`; None where no file holds it."""
        key = self._key(batch, layer, start)
        tensors = self._read(self._path(key), key, device)
        first = 0 if start is None else start.layer
        if tensors is None or not _fits(tensors, batch, range(first, layer)):
            return None
        prompt = PromptTensors.of(batch, device)
        keys, values = (tuple(tensors[f"{kind}.{i}"] for i in range(first, layer)) for kind in ("key", "value"))
        num_planes = sum(each.startswith("plane.") for each in tensors)
        return Prefix(
            layer=layer,
            stem=self._unpruned,
            stream=Stream(
                hidden=tensors["hidden"],
                positions=prompt.positions,
                mask=prompt.mask,
                visual_index=prompt.visual_index,
                saliency=None,
                labels=None,
                planes=tuple(tensors[f"plane.{i}"] for i in range(num_planes)),
            ),
            query=tensors["query"],
            keys=(*(() if start is None else start.keys), *keys),
            values=(*(() if start is None else start.values), *values),
            masks=(prompt.mask,),
            places=(places_of(prompt.positions),),
        )

    def put(self, batch: PromptBatch, prefix: Prefix, start: Prefix | None) -> None:
        """Keep what a prefix adds to `start`, if it fits."""
        from safetensors.torch import save

        first = 0 if start is None else start.layer
        tensors = {"hidden": prefix.stream.hidden, "query": prefix.query}
        tensors |= {f"plane.{i}": plane for i, plane in enumerate(prefix.stream.planes)}
        for i in range(first, prefix.layer):
            tensors |= {f"key.{i}": prefix.keys[i], f"value.{i}": prefix.values[i]}
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        key = self._key(batch, prefix.layer, start)
        if self._used_beside(key) + num_bytes > self.limit_bytes:
            return
        content = save({each: tensor.contiguous() for each, tensor in tensors.items()}, metadata={"vitcop_prefix": key})
        if self._used_beside(key) + len(content) <= self.limit_bytes:
            write_atomically(self._path(key), content)

    def _key(self, batch: PromptBatch, layer: int, start: Prefix | None) -> str:
        inputs = batch.model_inputs
        held = self._digests.get(id(inputs))
        if held is None or held[0] is not inputs:
            held = self._digests[id(inputs)] = (inputs, _digest(batch))
        return key_of(self._base, held[1], 0 if start is None else start.layer, layer)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _used_beside(self, key: str) -> int:
        """Bytes of all files but that of the key, which would be replaced."""
        mine, total = self._path(key).name, 0
        for file in self.folder.glob("*"):
            try:
                total += file.stat().st_size if file.name != mine else 0
            except OSError:  # another process has just renamed it
                continue
        return total

    @staticmethod
    def _read(path: Path, key: str, device: torch.device) -> dict[str, torch.Tensor] | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(device)) as file:
                if (file.metadata() or {}).get("vitcop_prefix") != key:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return None


def _digest(batch: PromptBatch) -> str:
    """sha256 of all that a model reads of a batch."""
    arrays = {"ids": batch.input_ids, "mask": batch.attention_mask, "positions": batch.position_ids}
    arrays |= {f"inputs.{name}": array for name, array in sorted(batch.model_inputs.items())}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _fits(tensors: dict[str, torch.Tensor], batch: PromptBatch, layers: Sequence[int]) -> bool:
    """Whether these are the tensors of such a batch and of these layers."""
    num_rows, length = batch.input_ids.shape
    names = {"hidden", "query", *(f"{kind}.{i}" for i in layers for kind in ("key", "value"))}
    if {name for name in tensors if not name.startswith("plane.")} != names:
        return False
    caches = [tensors[name] for name in names - {"hidden", "query"}]
    return (
        tensors["hidden"].shape[:2] == (num_rows, length)
        and len(tensors["query"]) == num_rows
        and all(cache.dim() == 4 and len(cache) == num_rows and cache.shape[2] == length for cache in caches)
    )
