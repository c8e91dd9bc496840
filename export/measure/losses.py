"""Adding up, batch by batch, how far two rungs are apart: schedule loss and export loss are each one of these."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitcop.calibrate.run.generation import Generated
from vitcop.export.bundle.contract import group_of_layer
from vitcop.export.measure.agreement import common_prefix, kept_agreement, logit_kl, max_deviation, top1_agreement
from vitcop.export.measure.layers import layer_deviations, layer_magnitudes, torch_kv
from vitcop.export.measure.near_ties import compare_stages, is_near_tie


@dataclass
class LogitLoss:
    """Distances between the logits of two rungs, step by step of the same answers."""

    kl: list[float] = field(default_factory=list)
    top1: list[bool] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    worst: float = 0.0

    def add(self, reference: np.ndarray, other: np.ndarray, prefix: int, length: int) -> None:
        """One sample: logits [T,vocab] of both, their answers' common prefix, length of the reference's answer."""
        self.kl += logit_kl(reference, other).tolist()
        self.top1 += top1_agreement(reference, other).tolist()
        self.prefixes.append(prefix)
        self.lengths.append(length)
        self.worst = max(self.worst, max_deviation(reference, other))

    def to_dict(self) -> dict[str, Any]:
        """Means over steps and samples; KL in nats."""
        return {
            "logit_kl_mean": float(np.mean(self.kl)) if self.kl else 0.0,
            "logit_kl_max": float(np.max(self.kl)) if self.kl else 0.0,
            "top1_agreement": float(np.mean(self.top1)) if self.top1 else 1.0,
            "prefix_share": sum(self.prefixes) / max(1, sum(self.lengths)),
            "prefix_mean_tokens": float(np.mean(self.prefixes)) if self.prefixes else 0.0,
            "logit_deviation_max": self.worst,
            "steps": len(self.kl),
        }


@dataclass(frozen=True, kw_only=True)
class ExportRow:
    """What one sample showed about the export: verdict of each stage, and whether and where the answers part."""

    stages: tuple[str, ...]
    near_tie: bool
    kept_differs: bool
    answer_differs: bool
    prefix: int


class ExportLoss:
    """Pruned PyTorch against the engine. Near-tie samples are counted and leave everything else.

    Args:
        schedule: the bundle's.
        dtype: the float type that the bundle computes in, whose ulp near-ties are told by.
    """

    def __init__(self, schedule: Any, dtype: str = "float32") -> None:
        self.logits = LogitLoss()
        self.layers = np.zeros(schedule.num_layers)
        self.magnitudes = np.zeros(schedule.num_layers)
        self.layers_compared = 0
        self._dtype = dtype
        self.rows: list[ExportRow] = []
        self._schedule = schedule
        names = ["vision"] * (schedule.vision is not None) + [f"drop_{i}" for i in range(len(schedule.drops))]
        self._kept: dict[str, list[float]] = {name: [] for name in names}

    def add(
        self, pruned: Generated, engine: Generated, engine_runner: Any, num_padding_B: np.ndarray
    ) -> list[ExportRow]:
        """One batch; returns a row for each of its samples."""
        added = [self._add_row(pruned, engine, row) for row in range(len(pruned.tokens))]
        sound = [row for row, found in enumerate(added) if not found.near_tie and not found.kept_differs]
        if sound and hasattr(engine_runner, "kv"):
            lengths = [pruned.prefill.kv_lengths[group] for group in group_of_layer(self._schedule)]
            ours, theirs = torch_kv(pruned.prefill.state), engine_runner.kv(engine.prefill.state)
            self.layers = np.maximum(self.layers, layer_deviations(ours, theirs, lengths, num_padding_B, sound))
            self.magnitudes = np.maximum(self.magnitudes, layer_magnitudes(ours, lengths, num_padding_B, sound))
            self.layers_compared += len(sound)
        self.rows += added
        return added

    @property
    def layer_deviation(self) -> float | None:
        """Of all layers the greatest deviation relative to the layer's largest key or value.

        None where no sample could be compared; infinite where a value is not finite.
        """
        if not self.layers_compared:
            return None
        relative = [
            0.0 if gap == 0 else float(gap / largest) if largest else float("inf")
            for gap, largest in zip(self.layers, self.magnitudes, strict=True)
        ]
        return max(relative) if np.isfinite(relative).all() else float("inf")

    def _add_row(self, pruned: Generated, engine: Generated, row: int) -> ExportRow:
        stages = compare_stages(pruned.prefill, engine.prefill, row, self._dtype)
        self._add_kept(pruned, engine, row, len(stages))
        assert pruned.logits is not None and engine.logits is not None, "answers that keep their logits"
        ours, theirs = pruned.tokens[row], engine.tokens[row]
        prefix = common_prefix(ours, theirs)
        # Both saw the same tokens up to and including the step at which they part.
        steps = min(prefix + 1, len(ours), len(theirs))
        near_tie = "near_tie" in stages
        if not near_tie and "different" not in stages and ours != theirs and prefix < min(len(ours), len(theirs)):
            # The rule of 16 ulp holds for the choice of a token as it does for the choice of what is kept.
            scores = pruned.logits[row, prefix]
            near_tie = is_near_tie(scores[[ours[prefix]]], scores[[theirs[prefix]]], self._dtype)
        if not near_tie:
            self.logits.add(pruned.logits[row, :steps], engine.logits[row, :steps], prefix, len(ours))
        return ExportRow(
            stages=stages,
            near_tie=near_tie,
            kept_differs="different" in stages,
            answer_differs=ours != theirs and not near_tie,
            prefix=prefix,
        )

    def _add_kept(self, pruned: Generated, engine: Generated, row: int, reached: int) -> None:
        ours, theirs = ([*([p.vision] if p.vision else []), *p.drops] for p in (pruned.prefill, engine.prefill))
        for name, left, right in list(zip(self._kept, ours, theirs, strict=False))[:reached]:
            self._kept[name].append(kept_agreement(left.kept_visual[row], right.kept_visual[row]))

    def to_dict(self) -> dict[str, Any]:
        """The export loss in plain values."""
        return {
            **self.logits.to_dict(),
            "kept_agreement": {name: float(np.mean(values)) if values else 1.0 for name, values in self._kept.items()},
            "kept_differing_samples": sum(row.kept_differs for row in self.rows),
            "answers_differing_samples": sum(row.answer_differs for row in self.rows),
            "near_tie_samples": sum(row.near_tie for row in self.rows),
            "layer_deviations": self.layers.tolist(),
            "layer_magnitudes": self.magnitudes.tolist(),
        }
