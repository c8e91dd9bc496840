"""`verify`: run the same samples through original, pruned PyTorch and engine, and hold them against each other.

Two losses are told apart: schedule loss (original against pruned PyTorch, the price of the method) and export loss
(pruned PyTorch against the engine, our own error). The controls run at the same budget in PyTorch.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.data.image_clusters import image_clusters
from vitcop.calibrate.data.task_scores import Metric, metric_of
from vitcop.export.bundle import Bundle
from vitcop.export.bundle.versions import installed_versions
from vitcop.export.machine import MEASURED_PACKAGES
from vitcop.export.measure.agreement import common_prefix
from vitcop.export.measure.gates import (
    GateResult,
    Gates,
    at_most,
    baseline_gates,
    layer_gate,
    score_loss_gate,
    weights_gate,
)
from vitcop.export.measure.kept import KeptPatches
from vitcop.export.measure.losses import ExportLoss, LogitLoss
from vitcop.export.measure.rungs import ENGINE, ORIGINAL, PRUNED, Rungs, engine_dtype, open_rungs
from vitcop.export.measure.score_tables import score_tables
from vitcop.export.measure.verification import Verification
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample


def verify(
    bundle: Bundle,
    samples: "Sequence[Sample]",
    *,
    target: str = "onnxruntime",
    gates: Gates | Mapping[str, Any] | None = None,
    model_dir: Path | None = None,
    batch_size: int = 8,
    max_new_tokens: int = 16,
    metric: str = "exact_match",
    baseline: Mapping[str, Any] | None = None,
    controls: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    attn: str = "sdpa",
    progress: Progress | None = None,
) -> Verification:
    """Hold a bundle's engine against PyTorch.

    Args:
        bundle: opened with `Bundle.open`.
        samples: from `load_samples`; those without answers count for agreement only.
        model_dir: the checkpoint that PyTorch reads; by default the folder that the bundle refers to.
        max_new_tokens: greatest answer length, in tokens.
        metric: a name in `METRICS`.
        gates: limits; a mapping names those that differ from the defaults.
        baseline: contents of an earlier verify.json over the same samples.
        controls: also run `random` and `uniform` at the same budget.
        seed: of the random control and of the bootstrap.
        options: options of the target, by name.
        device: where PyTorch runs.
        attn: attention of the PyTorch model: "sdpa", "eager" or "flash_attention_2".

    Weights that changed since the export are measured as they are, and fail a gate of their own. Raises InputError for
    wrong input. A failed gate raises nothing: look at `passed` or call `check()`.
    """
    if not samples:
        raise InputError("no samples to verify on")
    gates, progress, score = Gates.of(gates), progress or NoProgress(), metric_of(metric)
    rungs = open_rungs(
        bundle,
        target=target,
        options=options,
        model_dir=model_dir,
        controls=controls,
        device=device,
        attn=attn,
        seed=seed,
    )
    from vitcop.calibrate.data.samples import batches, samples_digest

    dtype = engine_dtype(rungs.runners[ENGINE], bundle)
    schedule_loss, export_loss, kept = LogitLoss(), ExportLoss(bundle.schedule, dtype), KeptPatches(samples)
    by_id: dict[str, dict[str, Any]] = {}
    progress.start(len(samples), "verify")
    for members, batch in batches(samples, rungs.processor, rungs.family, batch_size):
        rows = _run_batch(rungs, members, batch, max_new_tokens, score, schedule_loss, export_loss, kept)
        by_id.update((row["id"], row) for row in rows)
        for _ in members:
            progress.advance()

    rows = [by_id[sample.id] for sample in samples]
    groups = image_clusters(samples)
    settings = {
        "metric": metric,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "device": device,
        "attn": attn,
    }
    digest = samples_digest(samples)
    scores = score_tables(rows, groups, seed=seed)
    results = _hold_gates(gates, bundle, export_loss, scores, dtype=dtype, num_groups=_count_scored(rows, groups))
    if baseline is not None:
        results += baseline_gates(rows, baseline, groups, digest=digest, settings=settings, seed=seed)
    manifest = bundle.manifest
    return Verification(
        bundle={
            "model_id": manifest.model_id,
            "config_hash": manifest.config_hash,
            "schedule_hash": manifest.schedule_hash,
            "family": manifest.family,
            "dtype": dtype,
            "budget": bundle.schedule.budget(manifest.architecture.num_visual),
            "target": target,
        },
        samples={"count": len(samples), "digest": digest, "with_answers": sum(bool(row["scores"]) for row in rows)},
        settings=settings,
        schedule_loss=schedule_loss.to_dict(),
        export_loss=export_loss.to_dict(),
        scores=scores,
        gates=tuple(results),
        rows=tuple(rows),
        kept=tuple(kept.to_list()),
        versions=installed_versions(MEASURED_PACKAGES),
    )


def _run_batch(
    rungs: Rungs,
    members: "Sequence[Sample]",
    batch: Any,
    max_new_tokens: int,
    score: Metric,
    schedule_loss: LogitLoss,
    export_loss: ExportLoss,
    kept: KeptPatches,
) -> list[dict[str, Any]]:
    """All rungs on one batch; adds to both losses and what was kept, and returns the samples' rows."""
    from vitcop.calibrate.run.generation import generate, teacher_forced

    answers = {
        name: generate(
            runner,
            batch,
            max_new_tokens=max_new_tokens,
            eos_ids=rungs.eos_ids,
            keep_logits=name in (ORIGINAL, PRUNED, ENGINE),
        )
        for name, runner in rungs.runners.items()
    }
    original, pruned = answers[ORIGINAL], answers[PRUNED]
    assert original.logits is not None, "asked for"
    forced = teacher_forced(rungs.runners[PRUNED], batch, original.tokens)
    for row, tokens in enumerate(original.tokens):
        steps = len(tokens)
        schedule_loss.add(
            original.logits[row, :steps], forced[row, :steps], common_prefix(tokens, pruned.tokens[row]), steps
        )
    num_padding_B = (batch.attention_mask == 0).sum(axis=1)
    compared = export_loss.add(pruned, answers[ENGINE], rungs.runners[ENGINE], num_padding_B)
    kept.add(members, batch, answers[ENGINE].prefill)

    rows = []
    for row, (sample, found) in enumerate(zip(members, compared, strict=True)):
        texts = {name: rungs.text(answer.tokens[row]) for name, answer in answers.items()}
        rows.append(
            {
                "id": sample.id,
                "subset": sample.subset,
                "answers": texts,
                "scores": {name: score(text, sample.answers) for name, text in texts.items()}
                if sample.answers
                else None,
                "same_as_original": {
                    name: answer.tokens[row] == original.tokens[row]
                    for name, answer in answers.items()
                    if name != ORIGINAL
                },
                "stages": list(found.stages),
                "near_tie": found.near_tie,
                "kept_differs": found.kept_differs,
                "engine_answer_differs": found.answer_differs,
                "engine_prefix_tokens": found.prefix,
            }
        )
    return rows


def _count_scored(rows: Sequence[Mapping[str, Any]], groups: Sequence[Hashable]) -> int:
    """Groups (images) that the task score rests on."""
    return len({group for row, group in zip(rows, groups, strict=True) if row["scores"]})


def _hold_gates(
    gates: Gates, bundle: Bundle, export_loss: ExportLoss, scores: dict[str, Any], *, dtype: str, num_groups: int
) -> list[GateResult]:
    """The gates of a bundle on its own, without a baseline."""
    rows = export_loss.rows
    return [
        at_most("logit_deviation", export_loss.logits.worst, gates.logit_limit(dtype)),
        layer_gate(export_loss.layer_deviation, gates.layer_limit(dtype)),
        at_most("kept_differing", sum(row.kept_differs for row in rows), gates.kept_differing),
        at_most("answers_differing", sum(row.answer_differs for row in rows), gates.answers_differing),
        at_most("near_tie_share", sum(row.near_tie for row in rows) / len(rows), gates.near_tie_share),
        score_loss_gate(
            scores["all"]["differences"]["schedule_loss"] if scores else None, gates.score_loss, num_groups
        ),
        weights_gate(bundle.changed_weights()),
    ]
