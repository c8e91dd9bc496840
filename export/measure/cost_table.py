"""`bench --cost-table`: time a small set of prefills on a target and make of them what forecasts any schedule's time.

Each probe is exported into a temporary folder, opened, timed in turns with the unpruned engine, and closed: no more
than two engines are open at once. Times of a probe are taken relative to those of the unpruned engine in the same
turns, so that a machine that slows down between probes does not pass for a slow probe.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.schedule.latency import CostTable, Trial
from vitcop.calibrate.schedule.latency_fit import Timed, fit, forecast
from vitcop.export.bundle import Bundle
from vitcop.export.machine import machine_facts
from vitcop.export.measure.latency import SETTLE_SECONDS, check_unpruned, one_batch
from vitcop.export.measure.probes import LEAST_VISUAL, Probe, fitting_probes, plain_probe, trial_probes
from vitcop.export.measure.prompt_sizes import resized, token_tables
from vitcop.export.measure.rungs import engine_dtype, open_original
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.base import NEEDS_BUILDING, PACKAGING, packages_only
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample

PARTS = ("vision", "prefill")

OpenProbe = Callable[[Probe], Any]
"""A context manager that gives the runner of a probe's schedule, and lets go of it behind."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How probes are timed.

    Args:
        repeats, warmup: turns that count, and those before them that do not.
        seed: of the order within a turn.
        settle: seconds of rest before each change of engine, since thread pools spin on after their work.
    """

    repeats: int
    warmup: int
    seed: int
    settle: float


def measure_cost_table(
    bundle: Bundle,
    samples: "Sequence[Sample]",
    *,
    target: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    model_dir: Path | None = None,
    unpruned: Bundle | None = None,
    batch_size: int = 1,
    trials: int = 4,
    repeats: int = 10,
    warmup: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> CostTable:
    """The cost table of a bundle's model on a target.

    Args:
        samples: the first `batch_size` make the prompt that is timed, cut and lengthened.
        target, options: the runtime and its options.
        model_dir: the checkpoint, of which probes are exported; the one that the bundle names where None.
        unpruned: a bundle of the same model with the empty schedule, which saves one export.
        batch_size: rows; all seconds of the table are of so many prompts at once.
        trials: schedules that are timed and not fitted on, which tell the forecast's error.
        repeats, warmup: turns that count, and those before them that do not.
        seed: of the trials and of the order within a turn.

    Raises InputError for wrong input, MissingError where the target cannot run here.
    """
    if not samples or batch_size < 1 or repeats < 1 or warmup < 0 or trials < 0:
        raise InputError("a cost table needs samples, and batch size and repeats of at least 1")
    if unpruned is not None:
        check_unpruned(unpruned, bundle)
    if target in PACKAGING:
        raise packages_only(target)
    engine = open_target(target)
    from vitcop.calibrate.models.families.registry import family_of
    from vitcop.calibrate.models.loading import load_config
    from vitcop.export.capture.captures import Captures
    from vitcop.export.compile import export_bundle

    family = family_of(load_config(bundle.path))
    batch = one_batch(bundle, samples, batch_size)
    if batch.num_visual < LEAST_VISUAL:
        raise InputError(
            f"the first sample has {batch.num_visual} visual tokens, a cost table needs {LEAST_VISUAL}: give samples "
            "with larger images"
        )
    checkpoint = open_original(bundle, model_dir)
    copied = bundle.manifest.weights.mode == "copied"
    captures = Captures()
    given = {"none": unpruned or (bundle if bundle.schedule.is_empty else None)}
    dtypes: list[str] = []

    @contextmanager
    def open_probe(probe: Probe) -> Iterator[Runner]:
        with TemporaryDirectory() as folder:
            found = given.get(probe.name)
            if found is None:
                path = Path(folder) / "probe"
                export_bundle(checkpoint.path, probe.schedule, path, copy_weights=copied, captures=captures)
                found = Bundle.open(path)
            if target in NEEDS_BUILDING:
                engine.build(found, options)
            runner = engine.runner(found, options)
            dtypes.append(engine_dtype(runner, found))
            yield runner

    shape = (family.num_layers, batch.num_visual)
    plain = plain_probe(*shape)
    probes = fitting_probes(*shape, family.vision_scores)
    held_out = trial_probes(*shape, family.vision_scores, count=trials, seed=seed)
    tables = token_tables(family)
    timed = time_probes(
        plain,
        [*probes, *held_out],
        open_probe,
        lambda size: resized(batch, *size, tables),
        Protocol(repeats=repeats, warmup=warmup, seed=seed, settle=SETTLE_SECONDS),
        progress or NoProgress(),
    )
    fitted = [point for probe in (plain, *probes) for point in timed[probe.name]]
    length = batch.input_ids.shape[1]
    knees = tuple(sorted({length // 4, length // 2} - {0}))
    coefficients = fit(fitted, knees)
    return CostTable(
        model_id=bundle.manifest.model_id,
        config_hash=bundle.manifest.config_hash,
        num_layers=family.num_layers,
        target=target,
        options=dict(options or {}),
        dtype=dtypes[0],
        rows=batch_size,
        visual_tokens=batch.num_visual,
        text_tokens=length - batch.num_visual,
        machine=machine_facts(),
        settings={"repeats": repeats, "warmup": warmup, "seed": seed, "trials": trials},
        coefficients=coefficients,
        fit_errors=tuple(_error(coefficients, point, knees) for point in fitted),
        trials=tuple(
            Trial(
                schedule=probe.name,
                num_visual=point.num_visual,
                text_tokens=point.text_tokens,
                forecast=sum(forecast(coefficients, point, knees)),
                measured=point.vision + point.prefill,
            )
            for probe in held_out
            for point in timed[probe.name]
        ),
    )


def time_probes(
    plain: Probe,
    probes: Sequence[Probe],
    open_probe: OpenProbe,
    prompt: Callable[[tuple[int, int]], PromptBatch],
    protocol: Protocol,
    progress: Progress,
) -> dict[str, list[Timed]]:
    """Time the unpruned model and each probe at its sizes; seconds by the probe's name.

    Args:
        plain: the unpruned model; its first size is the yardstick.
        prompt: the prompt of a size.
    """
    rng = np.random.default_rng(protocol.seed)
    progress.start(1 + len(probes), "cost table")
    visits: dict[str, _Visit] = {}
    with open_probe(plain) as reference:
        prompts = {size: prompt(size) for size in {size for probe in (plain, *probes) for size in probe.sizes}}
        visits[plain.name] = _visit(reference, None, plain, plain, prompts, protocol, rng)
        progress.advance()
        for probe in probes:
            with open_probe(probe) as runner:
                visits[probe.name] = _visit(reference, runner, probe, plain, prompts, protocol, rng)
            del runner  # or its engine would stay open beside the next one
            progress.advance()
    yardstick = {part: median(value for visit in visits.values() for value in visit.reference[part]) for part in PARTS}
    return {
        probe.name: [_timed(probe, size, prompts[size], visits[probe.name], yardstick) for size in probe.sizes]
        for probe in (plain, *probes)
    }


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """Seconds of one probe by size and part, one of each turn, and of the unpruned engine in the same turns."""

    probe: dict[tuple[int, int], dict[str, list[float]]]
    reference: dict[str, list[float]]


def _visit(
    reference: Runner,
    runner: Runner | None,
    probe: Probe,
    plain: Probe,
    prompts: Mapping[tuple[int, int], PromptBatch],
    protocol: Protocol,
    rng: np.random.Generator,
) -> _Visit:
    """Time one probe; without a runner of its own on the unpruned engine."""
    seconds = {size: {part: list[float]() for part in PARTS} for size in probe.sizes}
    yardstick = {part: list[float]() for part in PARTS}
    for turn in range(protocol.warmup + protocol.repeats):
        sleep(protocol.settle)
        runs = [_run(reference, prompts[plain.sizes[0]])]
        if runner is not None:
            sleep(protocol.settle)
        order = [probe.sizes[i] for i in rng.permutation(len(probe.sizes))]
        runs += [_run(runner or reference, prompts[size]) for size in order]
        if turn >= protocol.warmup:
            for kept, found in zip([yardstick, *(seconds[size] for size in order)], runs, strict=True):
                for part in PARTS:
                    kept[part].append(found[part])
    return _Visit(probe=seconds, reference=yardstick)


def _run(runner: Runner, prompt: PromptBatch) -> dict[str, float]:
    found = runner.prefill(prompt).seconds
    if not set(PARTS) <= set(found):
        raise InputError(f"target {runner.name} does not tell the time of vision tower and prefill apart")
    return found


def _timed(
    probe: Probe, size: tuple[int, int], prompt: PromptBatch, visit: _Visit, yardstick: Mapping[str, float]
) -> Timed:
    """The point of one size: medians over the turns, as of a machine on which the yardstick took its overall median."""
    part = {name: median(visit.probe[size][name]) * yardstick[name] / median(visit.reference[name]) for name in PARTS}
    return Timed(
        schedule=probe.schedule,
        num_visual=prompt.num_visual,
        text_tokens=prompt.input_ids.shape[1] - prompt.num_visual,
        **part,
    )


def _error(coefficients: dict[str, float], point: Timed, knees: Sequence[int]) -> float:
    measured = point.vision + point.prefill
    return abs(sum(forecast(coefficients, point, knees)) - measured) / measured
