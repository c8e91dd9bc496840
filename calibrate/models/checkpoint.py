"""A Hugging Face model folder, read without torch: config, weight shards, and where each tensor lies in them.

Only config.json and safetensors are read; nothing here can run code from a model folder.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitcop.calibrate.models.families.registry import supported_architectures
from vitcop.plugins.errors import InputError

SINGLE_SHARD = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""Longest safetensors header that is read; the format's own limit."""

FINGERPRINT_BLOCKS = 64
FINGERPRINT_BLOCK_BYTES = 65_536

_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class TensorLocation:
    """Where one tensor lies: `length` bytes from the absolute byte `offset` of `file` (a plain name inside the model
    folder)."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model folder that vitcop can use.

    Args:
        path: the folder.
        config: the content of config.json.
        model_id: the folder's own name.
        config_hash: sha256 of config.json as canonical JSON, without `transformers_version` (which changes on every
            save).
        shards: names of the safetensors files, sorted.
    """

    path: Path
    config: dict[str, Any]
    model_id: str
    config_hash: str
    shards: tuple[str, ...]
    _tensors: dict[str, TensorLocation] = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Read and check a model folder. Raises InputError with one line on what is wrong and what to do."""
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such model folder (give the folder that holds config.json and *.safetensors)"
            )
        config = _read_config(folder)
        shards = _shard_names(folder)
        tensors: dict[str, TensorLocation] = {}
        for shard in shards:
            for name, location in read_header(folder / shard).items():
                if name in tensors:
                    raise InputError(f"{folder}: tensor {name} is in both {tensors[name].file} and {shard}")
                tensors[name] = location
        _check_index(folder, shards, tensors)
        canonical = json.dumps(
            {key: value for key, value in config.items() if key != "transformers_version"},
            sort_keys=True,
            separators=(",", ":"),
        )
        return cls(
            path=folder,
            config=config,
            model_id=folder.resolve().name,
            config_hash=hashlib.sha256(canonical.encode()).hexdigest(),
            shards=shards,
            _tensors=tensors,
        )

    def tensors(self) -> dict[str, TensorLocation]:
        """Where each tensor of the checkpoint lies, by its name there."""
        return dict(self._tensors)

    def fingerprint(self, *, times: bool = True) -> str:
        """sha256 over size, time of change, header and evenly spaced samples of each shard: tells one set of weights
        from another in milliseconds. Without `times` a copy of the folder has the same.

        For cache keys alone, never for a file that equal runs must write equally: a copy of the folder may have other
        times, and it is no proof that every byte is the same.
        """
        digest = hashlib.sha256()
        for shard in self.shards:
            found = (self.path / shard).stat()
            size = found.st_size
            digest.update(f"{shard}\0{size}\0{found.st_mtime_ns if times else 0}\0".encode())
            with (self.path / shard).open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                digest.update(stream.read(length))
                for i in range(FINGERPRINT_BLOCKS):
                    stream.seek(max(8 + length, (size - FINGERPRINT_BLOCK_BYTES) * i // max(1, FINGERPRINT_BLOCKS - 1)))
                    digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
        return digest.hexdigest()

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        return read_eos_ids(self.path)


def read_eos_ids(folder: str | Path) -> frozenset[int]:
    """Token ids that end an answer: of generation_config.json, else of config.json (its text part first); empty where
    none says."""
    for name in ("generation_config.json", "config.json"):
        file = Path(folder) / name
        if not file.is_file():
            continue
        data = _read_object(file)
        for part in (data.get("text_config"), data):
            found = part.get("eos_token_id") if isinstance(part, dict) else None
            if found is not None:
                found = found if isinstance(found, list) else [found]
                if not all(type(token) is int for token in found):
                    raise InputError(f"{file}: eos_token_id must be an integer or a list of them, found {found!r}")
                return frozenset(found)
    return frozenset()


def read_header(file: Path) -> dict[str, TensorLocation]:
    """Parse the header of one safetensors file: 8 bytes of little-endian length, JSON, then the tensors' bytes.

    Raises InputError where the file is truncated, the header is not what the format says, or an offset leaves the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise InputError(
                f"{file}: truncated or not a safetensors file (header of {length} bytes in a file of {size})"
            )
        try:
            header = json.loads(stream.read(length).decode("utf-8"))
        except ValueError:
            raise InputError(f"{file}: not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise InputError(f"{file}: not a safetensors file (its header is not a JSON object)")
    start, tensors = 8 + length, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise InputError(f"{file}: broken header entry of tensor {name}") from None
        if dtype not in _DTYPE_BYTES:
            raise InputError(f"{file}: tensor {name} has dtype {dtype!r}, which is not known here")
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise InputError(f"{file}: broken header entry of tensor {name}")
        if end - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
            raise InputError(
                f"{file}: tensor {name} has {end - begin} bytes, which is not what its shape {list(shape)} and "
                f"{dtype} need"
            )
        if start + end > size:
            raise InputError(
                f"{file}: truncated (tensor {name} ends at byte {start + end} of {size}); download the file again"
            )
        tensors[name] = TensorLocation(
            file=file.name, dtype=dtype, shape=shape, offset=start + begin, length=end - begin
        )
    return tensors


def _read_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(data).__name__}")
    return data


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        hint = (
            " (a LoRA adapter: merge it into its base model first)"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise InputError(f"{folder}: no config.json in this folder; is it a Hugging Face model folder?{hint}")
    config = _read_object(folder / "config.json")
    for key, kind, said in (("text_config", dict, "an object"), ("architectures", list, "a list")):
        if not isinstance(config.get(key), kind | None):
            raise InputError(f"{folder}: {key} in config.json must be {said}, found {config[key]!r}")
    quantization = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if quantization:
        method = (
            quantization.get("quant_method", "unknown method") if isinstance(quantization, dict) else "unknown method"
        )
        raise InputError(
            f"{folder}: quantized checkpoint ({method}) is not supported; give the unquantized model, and quantize "
            "after pruning"
        )
    architectures = config.get("architectures") or []
    if not set(map(str, architectures)) & set(supported_architectures()):
        found = ", ".join(map(str, architectures)) or "none named"
        remote = "; it needs remote code (auto_map), which vitcop never runs" if config.get("auto_map") else ""
        raise InputError(
            f"{folder}: architecture {found} is not supported{remote}; supported: "
            f"{', '.join(supported_architectures())}"
        )
    return config


def _shard_names(folder: Path) -> tuple[str, ...]:
    if (folder / SINGLE_SHARD).is_file():
        return (SINGLE_SHARD,)
    if (folder / SHARD_INDEX).is_file():
        weight_map = _read_object(folder / SHARD_INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / SHARD_INDEX}: no weight_map in it")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if name != Path(name).name or name in (".", "..") or "\\" in name or not name.endswith(".safetensors"):
                raise InputError(
                    f"{folder / SHARD_INDEX}: shard {name!r} is not a plain safetensors file name of this folder"
                )
            if not (folder / name).is_file():
                raise InputError(f"{folder}: shard {name}, named in {SHARD_INDEX}, is missing; download it again")
        return tuple(names)
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder}: pickled weights only ({pickled[0]}), which vitcop never loads; convert to safetensors"
        )
    raise InputError(f"{folder}: no weights ({SINGLE_SHARD} or {SHARD_INDEX}) in this folder")


def _check_index(folder: Path, shards: tuple[str, ...], tensors: dict[str, TensorLocation]) -> None:
    """Every tensor that the index names must be in the shard that it names."""
    if shards == (SINGLE_SHARD,):
        return
    for name, shard in _read_object(folder / SHARD_INDEX)["weight_map"].items():
        if name not in tensors or tensors[name].file != shard:
            raise InputError(f"{folder}: tensor {name} is not in {shard}, where {SHARD_INDEX} puts it")
