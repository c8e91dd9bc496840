"""What all units of one calibration share, as JSON: from it a worker makes its model and its samples. No torch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitcop.calibrate.core.digests import known_digests
from vitcop.calibrate.core.progress import Progress
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.versions import versions
from vitcop.calibrate.data.samples import Sample, samples_digest
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.processor_files import processor_digest
from vitcop.calibrate.work.executors.base import Factory
from vitcop.plugins.registry import REVISIONS

_MEASURING = ("batch_size", "max_new_tokens", "top_k", "metric", "device", "dtype", "attn")
"""Settings that what a unit measures depends on; the others say which units there are."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a calibration measures with.

    Args:
        parts: the parts of the sample sets that units name, by digest.
        threads: of torch, in each unit.
        store: of finished results.
        base: what a result depends on beside its unit; JSON.
    """

    checkpoint: Checkpoint
    settings: CalibrationSettings
    parts: Mapping[str, Sequence[Sample]]
    threads: int
    store: Store
    base: dict[str, Any]

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        settings: CalibrationSettings,
        parts: Sequence[Sequence[Sample]],
        *,
        threads: int = 1,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> "Job":
        """A job over parts of sample sets. Reads weights whose digest this machine does not know, with progress."""
        measuring = {name: getattr(settings, name) for name in _MEASURING}
        return cls(
            checkpoint=checkpoint,
            settings=settings,
            parts={samples_digest(part): part for part in parts},
            threads=threads,
            store=store or Store(None),
            base={
                "model": model_facts(checkpoint, progress),
                "op_revisions": REVISIONS,
                "settings": {**measuring, "threads": threads},
                "versions": versions(),
            },
        )

    def factory(self) -> Factory:
        """Of its performers: see `vitcop.calibrate.work.units`."""
        folder = self.store.folder
        return Factory(
            module="vitcop.calibrate.work.units",
            function="make_performer",
            arguments={
                "checkpoint": str(self.checkpoint.path.resolve()),
                "fingerprint": self.checkpoint.fingerprint(times=False),
                "settings": asdict(self.settings),
                "parts": {digest: [sample.to_json() for sample in part] for digest, part in self.parts.items()},
                "threads": self.threads,
                "store": None if folder is None else str(folder.resolve()),
                "base": self.base,
            },
        )

    def run_facts(self, *, seed: int, sets: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
        """What makes two machines' shards parts of one run, for `PartialTable.run`.

        Args:
            sets: the whole sample sets, by name.
        """
        return {
            **self.base,
            "samples": {
                name: {"digest": samples_digest(samples), "num": len(samples)} for name, samples in sets.items()
            },
            "seed": seed,
            "settings": asdict(self.settings),
        }


def model_facts(checkpoint: Checkpoint, progress: Progress | None = None) -> dict[str, Any]:
    """Digests of all that the model's answers follow from; a copy of its folder has the same."""
    return {
        "config": checkpoint.config_hash,
        "eos": sorted(checkpoint.eos_ids),
        "name": checkpoint.model_id,
        "processor": processor_digest(checkpoint.path),
        "weights": weights_digest(checkpoint, progress),
    }


def weights_digest(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """sha256 over the names and the bytes of all shards."""
    digest = hashlib.sha256()
    digests = known_digests([checkpoint.path / shard for shard in checkpoint.shards], progress)
    for shard, found in zip(checkpoint.shards, digests, strict=True):
        digest.update(f"{shard}\0{found}\0".encode())
    return digest.hexdigest()
