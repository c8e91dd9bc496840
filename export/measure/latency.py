"""`bench`: how long each part takes, with and without dropping, in one run on one machine.

Rungs take turns within every repeat, so that a machine that slows down slows all of them; ratios are medians of the
ratios within a repeat, never of numbers from different runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Runner
from vitcop.export.bundle import Bundle
from vitcop.export.machine import machine_facts, peak_memory_bytes
from vitcop.export.measure.rungs import engine_dtype, open_original
from vitcop.export.runtimes import open_target
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample

ENGINE, UNPRUNED, TORCH_PRUNED, TORCH_ORIGINAL = "engine", "engine_unpruned", "torch_pruned", "torch_original"
PARTS = ("vision", "prefill", "decode_per_token", "total")
SCHEMA_VERSION = 1

SETTLE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one part of one rung: median over the repeats, quartiles as spread."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The outcome of `bench`.

    Args:
        bundle: which bundle, target and budget.
        batch: rows, prompt tokens, visual tokens, new tokens.
        rungs: for each rung the float type that it computed in, its seconds by part, KV bytes and lengths after the
            prefill, and peak memory of the process after it first ran. PyTorch computes in the engine's type.
        ratios: for each other rung and part, its time divided by the engine's (above 1: the engine is faster); for
            torch_original without vision and prefill, which its forward does not tell apart.
        machine: what it ran on.
        settings: warmup, repeats and options.
        notes: what the numbers do not show.
    """

    bundle: dict[str, Any]
    batch: dict[str, int]
    rungs: dict[str, Any]
    ratios: dict[str, dict[str, float]]
    machine: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The contents of bench.json."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def summary(self) -> str:
        """A table of medians in milliseconds, one line a rung, and the ratios to the engine."""
        parts = ("vision", "selector", "prefill", "decode_per_token", "total")
        lines = [f"{'ms (median)':<18}" + "".join(f"{part:>18}" for part in parts) + f"{'KV bytes':>14}"]
        for name, rung in self.rungs.items():
            cells = [
                f"{rung['seconds'][part]['median'] * 1e3:.3f}" if part in rung["seconds"] else "-" for part in parts
            ]
            lines.append(f"{name:<18}" + "".join(f"{cell:>18}" for cell in cells) + f"{rung['kv_bytes']:>14}")
        for name, ratios in self.ratios.items():
            found = ", ".join(f"{part} {value:.2f}" for part, value in ratios.items())
            lines.append(f"{name} / {ENGINE}: {found}")
        return "\n".join(lines)


def bench(
    bundle: Bundle,
    samples: "Sequence[Sample]",
    *,
    target: str = "onnxruntime",
    batch_size: int = 1,
    warmup: int = 2,
    repeats: int = 10,
    max_new_tokens: int = 16,
    compare_torch: bool = True,
    unpruned: Bundle | None = None,
    model_dir: Path | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    attn: str = "sdpa",
    progress: Progress | None = None,
) -> Bench:
    """Measure a bundle's engine on one batch of the samples.

    Args:
        batch_size: rows of the batch; samples are repeated where there are fewer.
        warmup: runs that do not count.
        repeats: runs that count.
        max_new_tokens: decode steps of each run, always all of them.
        compare_torch: also time PyTorch, original and pruned.
        unpruned: a bundle of the same model with the empty schedule, to compare with.
        model_dir: the checkpoint that PyTorch reads; by default the folder that the bundle refers to.
        device, attn: where PyTorch runs, and its attention.

    Raises InputError for wrong input, such as an unpruned bundle that drops tokens or is of another model or weights.
    """
    if not samples or batch_size < 1 or repeats < 1 or warmup < 0 or max_new_tokens < 1:
        raise InputError("bench needs samples, and batch size, repeats and new tokens of at least 1")
    if unpruned is not None:
        check_unpruned(unpruned, bundle)
    engine = open_target(target)
    batch = one_batch(bundle, samples, batch_size)
    rungs: dict[str, Runner] = {ENGINE: engine.runner(bundle, options)}
    dtypes = {ENGINE: engine_dtype(rungs[ENGINE], bundle)}
    shares: dict[str, dict[str, float | None]] = {ENGINE: engine.selector_shares(bundle, batch, options)}
    if unpruned is not None:
        rungs[UNPRUNED] = engine.runner(unpruned, options)
        dtypes[UNPRUNED] = engine_dtype(rungs[UNPRUNED], unpruned)
        shares[UNPRUNED] = engine.selector_shares(unpruned, batch, options)
    if compare_torch:
        in_torch = _torch_runners(bundle, model_dir, device, dtypes[ENGINE], attn)
        rungs |= in_torch
        dtypes |= dict.fromkeys(in_torch, dtypes[ENGINE])
    progress = progress or NoProgress()
    progress.start((warmup + repeats) * len(rungs), "bench")
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in rungs}
    facts: dict[str, dict[str, Any]] = {}
    for repeat in range(warmup + repeats):
        for name, runner in rungs.items():
            # Thread pools spin for a while after their work; the next rung must not share the cores with them.
            sleep(SETTLE_SECONDS)
            seconds, kv_bytes, kv_lengths = _run_once(runner, batch, max_new_tokens)
            if name not in facts:
                facts[name] = {
                    "kv_bytes": kv_bytes,
                    "kv_lengths": list(kv_lengths),
                    "process_peak_bytes": peak_memory_bytes(),
                }
            if repeat >= warmup:
                for part, value in seconds.items():
                    times[name][part].append(value)
            progress.advance()
    return Bench(
        bundle={
            "model_id": bundle.manifest.model_id,
            "schedule_hash": bundle.manifest.schedule_hash,
            "budget": bundle.schedule.budget(bundle.manifest.architecture.num_visual),
            "dtype": bundle.manifest.architecture.dtype,
            "target": target,
        },
        batch={
            "rows": len(batch.input_ids),
            "prompt_tokens": batch.input_ids.shape[1],
            "visual_tokens": batch.num_visual,
            "new_tokens": max_new_tokens,
        },
        rungs={
            name: {**facts[name], "dtype": dtypes[name], "seconds": _seconds(times[name], shares.get(name))}
            for name in rungs
        },
        ratios={
            name: {
                part: median(other / own for other, own in zip(times[name][part], times[ENGINE][part], strict=True))
                for part in _compared_parts(name)
                if all(times[ENGINE][part]) and all(times[name][part])
            }
            for name in rungs
            if name != ENGINE
        },
        machine=machine_facts(),
        settings={
            "batch_size": batch_size,
            "warmup": warmup,
            "repeats": repeats,
            "max_new_tokens": max_new_tokens,
            "device": device,
            "attn": attn,
            "options": dict(options or {}),
        },
        notes=(
            "selector is the share of vision tower and prefill that the runtime's own profile gives to vitcop "
            "operations; those two are shown without it, their ratios with it",
            "torch_original runs its vision tower inside its forward: its vision time is part of its prefill",
            "process_peak_bytes is of the whole process, all rungs loaded so far included",
            *_dtype_notes(dtypes, device),
        ),
    )


def check_unpruned(unpruned: Bundle, bundle: Bundle) -> None:
    """Raises InputError where the two bundles differ in more than the schedule, or the one drops tokens itself."""
    ours, theirs = bundle.manifest, unpruned.manifest
    if theirs.config_hash != ours.config_hash:
        raise InputError(
            f"{unpruned.path}: a bundle of another model than {bundle.path}; export both from one model folder"
        )
    if not unpruned.schedule.is_empty:
        raise InputError(f"{unpruned.path}: its schedule drops tokens; give a bundle exported with `--schedule none`")
    weights = [{record.name: record.sha256 for record in side.weights.files} for side in (ours, theirs)]
    if weights[0] != weights[1]:
        raise InputError(
            f"{unpruned.path}: a bundle of other weights than {bundle.path}; export both from one model folder"
        )


def _compared_parts(rung: str) -> tuple[str, ...]:
    return tuple(part for part in PARTS if rung != TORCH_ORIGINAL or part not in ("vision", "prefill"))


def one_batch(bundle: Bundle, samples: "Sequence[Sample]", batch_size: int) -> PromptBatch:
    """The first `batch_size` samples as one batch, repeated where there are fewer."""
    from vitcop.calibrate.data.samples import batches
    from vitcop.calibrate.models.families.registry import family_of
    from vitcop.calibrate.models.loading import load_config, load_processor

    processor = load_processor(bundle.processor_folder)
    chosen = [samples[index % len(samples)] for index in range(batch_size)]
    _, batch = next(iter(batches(chosen, processor, family_of(load_config(bundle.path)), batch_size)))
    if len(batch.input_ids) != batch_size:
        raise InputError(
            "the first samples have different numbers of visual tokens: give samples of one kind, or --batch-size 1"
        )
    if not batch.num_visual:
        raise InputError("the first samples have no image, so nothing would be dropped: give samples with images")
    return batch


def _dtype_notes(dtypes: Mapping[str, str], device: str) -> list[str]:
    """What the float types of the rungs mean for their times."""
    notes, own = [], dtypes[ENGINE]
    if (other := dtypes.get(UNPRUNED, own)) != own:
        notes.append(f"{UNPRUNED} computes in {other} and {ENGINE} in {own}: their ratios are of both differences")
    if TORCH_PRUNED in dtypes and own != "float32" and device.split(":")[0] == "cpu":
        notes.append(
            f"{TORCH_PRUNED} and {TORCH_ORIGINAL} computed in {own} on the CPU, for which PyTorch has few fast kernels "
            "there: their times say nothing about a GPU"
        )
    return notes


def _torch_runners(bundle: Bundle, model_dir: Path | None, device: str, dtype: str, attn: str) -> dict[str, Runner]:
    from vitcop.calibrate.models.loading import load_model
    from vitcop.calibrate.run.scheduled import OriginalRunner, ScheduledRunner

    checkpoint = open_original(bundle, model_dir)
    model, _, family = load_model(checkpoint, device=device, dtype=dtype, attn=attn)
    return {
        TORCH_PRUNED: ScheduledRunner(model, family, bundle.schedule, name=TORCH_PRUNED),
        TORCH_ORIGINAL: OriginalRunner(model, family),
    }


def _run_once(runner: Runner, batch: PromptBatch, new_tokens: int) -> tuple[dict[str, float], int, tuple[int, ...]]:
    """One prefill and `new_tokens` greedy steps: seconds by part, KV bytes and lengths after the prefill."""
    start = perf_counter()
    done = runner.prefill(batch)
    decoding = perf_counter()
    logits = done.logits
    for _ in range(new_tokens):
        logits = runner.decode(logits.argmax(axis=-1).astype(np.int64), done.state)
    end = perf_counter()
    seconds = {
        "vision": done.seconds.get("vision", 0.0),
        "prefill": done.seconds.get("prefill", decoding - start),
        "decode_per_token": (end - decoding) / new_tokens,
        "total": end - start,
    }
    return seconds, done.kv_bytes, done.kv_lengths


def _seconds(times: dict[str, list[float]], shares: dict[str, float | None] | None) -> dict[str, Any]:
    """Timings by part; where the target can tell its shares, the selector's are taken out of vision and prefill."""
    known = {part: share for part, share in (shares or {}).items() if share is not None}
    if shares is not None and len(known) == len(shares):
        taken = {part: [value * share for value in times[part]] for part, share in known.items()}
        rest = {part: [value * (1 - share) for value in times[part]] for part, share in known.items()}
        selector = [sum(values) for values in zip(*taken.values(), strict=True)]
        times = {**times, **rest, "selector": selector}
    return {part: asdict(_timing(values)) for part, values in times.items()}


def _timing(values: Sequence[float]) -> Timing:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Timing(median=float(middle), low=float(low), high=float(high))
