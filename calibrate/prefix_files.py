"""Prefixes of the unpruned model on disk: one safetensors file for each batch and candidate layer, holding what was
added since the candidate layer before it, so that keys and values are there once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vitcop.calibrate.device_inputs import PromptTensors, places_of
from vitcop.calibrate.prefix import Prefix
from vitcop.calibrate.schedule import Schedule
from vitcop.calibrate.store import key_of, write_atomically
from vitcop.calibrate.stream import Stream

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

    def get(self, name: str, prompt: PromptTensors, layer: int, start: Prefix | None) -> Prefix | None:
        """The prefix of this batch before `layer`, going on from `start`; None where no file holds it.

        Args:
            name: of the batch.
        """
        key = self._key(name, layer, start)
        tensors = self._read(self._path(key), key, prompt.mask.device)
        first = 0 if start is None else start.layer
        if tensors is None or not _fits(tensors, prompt, range(first, layer)):
            return None
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

    def put(self, name: str, prefix: Prefix, start: Prefix | None) -> None:
        """Keep what a prefix adds to `start`, if it fits."""
        from safetensors.torch import save

        first = 0 if start is None else start.layer
        tensors = {"hidden": prefix.stream.hidden, "query": prefix.query}
        tensors |= {f"plane.{i}": plane for i, plane in enumerate(prefix.stream.planes)}
        for i in range(first, prefix.layer):
            tensors |= {f"key.{i}": prefix.keys[i], f"value.{i}": prefix.values[i]}
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        key = self._key(name, prefix.layer, start)
        if self._used_beside(key) + num_bytes > self.limit_bytes:
            return
        content = save({each: tensor.contiguous() for each, tensor in tensors.items()}, metadata={"vitcop_prefix": key})
        if self._used_beside(key) + len(content) <= self.limit_bytes:
            write_atomically(self._path(key), content)

    def _key(self, name: str, layer: int, start: Prefix | None) -> str:
        return key_of(self._base, name, 0 if start is None else start.layer, layer)

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


def _fits(tensors: dict[str, torch.Tensor], prompt: PromptTensors, layers: Sequence[int]) -> bool:
    """Whether these are the tensors of such a batch and of these layers."""
    batch, length = prompt.mask.shape
    names = {"hidden", "query", *(f"{kind}.{i}" for i in layers for kind in ("key", "value"))}
    if {name for name in tensors if not name.startswith("plane.")} != names:
        return False
    caches = [tensors[name] for name in names - {"hidden", "query"}]
    return (
        tensors["hidden"].shape[:2] == (batch, length)
        and len(tensors["query"]) == batch
        and all(cache.dim() == 4 and len(cache) == batch and cache.shape[2] == length for cache in caches)
    )
