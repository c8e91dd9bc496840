"""The search for a schedule: from what each drop costs alone to one that was chosen on samples of its own.

1. The original answers everything; what it depends on tells which scores are worth trying before which layer.
2. Every drop alone: the sensitivity table, on the calibration set.
3. Of all sets of drops under the constraint the best by forecast, and merges behind a vision stage, are
   measured and refined jointly.
4. The best few, the paper's schedule, other methods' rules and the controls are measured on the selection set. Of the
   best few the least KL wins; nothing else ever does.
5. The same over several budgets, without the refinement: the curve.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from vitcop.calibrate.core.progress import NoProgress, Progress
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.image_clusters import clusters_by_id
from vitcop.calibrate.data.samples import Sample, samples_digest
from vitcop.calibrate.evaluate.evaluation import Losses
from vitcop.calibrate.evaluate.grid import cells, keep_counts
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule.budget import check_one_token
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, named
from vitcop.calibrate.schedule.latency import CostTable
from vitcop.calibrate.schedule.schedule import Schedule, check_seed
from vitcop.calibrate.search.calibration import Calibration
from vitcop.calibrate.search.constraints import Constraint
from vitcop.calibrate.search.curve import Curve
from vitcop.calibrate.search.planning import Planning, Scheduled
from vitcop.calibrate.search.refine import RefineSettings, Tried, refine
from vitcop.calibrate.search.refine_space import RefineSpace
from vitcop.calibrate.search.rules import CENTERS, admitted_rules, candidate_rules
from vitcop.calibrate.search.sample_parts import CALIBRATION, SELECTION, check_samples, pieces, rungs
from vitcop.calibrate.search.summary import Found, summarise
from vitcop.calibrate.stats.subset_limits import SubsetLimit, violations
from vitcop.calibrate.work.executors.base import Executor, Factory, Json
from vitcop.calibrate.work.executors.in_process import InProcess
from vitcop.calibrate.work.job import Job
from vitcop.calibrate.work.measuring import Measuring
from vitcop.calibrate.work.sharding import perform_shard, take_in
from vitcop.calibrate.work.shards import PartialTable, Shard
from vitcop.plugins.errors import InputError


def calibrate(
    checkpoint: Checkpoint,
    calibration_samples: Sequence[Sample],
    selection_samples: Sequence[Sample],
    *,
    budget: float | None = None,
    constraint: Constraint | None = None,
    seed: int = 0,
    settings: CalibrationSettings | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
    open_executor: Callable[[Factory], Executor] = InProcess,
    cost_table: CostTable | None = None,
    limits: Sequence[SubsetLimit] = (),
    merged: PartialTable | None = None,
) -> Calibration:
    """Find the schedule of least loss that meets the constraint.

    Args:
        calibration_samples: everything is searched on these; 64 to 200 are usual.
        selection_samples: the last few are compared on these; none may be among the calibration samples.
        budget: short for the constraint "budget": mean over the decoder layers of visual tokens present / visual tokens
            of the unpruned model, in (0, 1].
        seed: of everything drawn, in [0, 2³¹): equal inputs and seed give equal bytes on one machine, whatever
            performs the work and however often it was interrupted.
        store: folder for finished work; a search that was interrupted goes on from there.
        open_executor: who performs the work.
        cost_table: measured times of a target; needed for "latency_ms".
        limits: what may be lost on named subsets of the selection samples.
        merged: the sensitivity table as shards measured it (`measure_shard`), all of them.

    A schedule whose logits are not finite is left out (`Calibration.overflowed`). Raises InputError where the sets
    overlap or are empty, the constraint cannot be met (naming the nearest that can), no finalist keeps the limits,
    shards are missing or of another run, or the logits of the original or of every schedule are not finite.
    """
    if budget is not None:
        assert constraint is None, "one constraint"
        constraint = Constraint(kind="budget", value=budget)
    assert constraint is not None, "one constraint"
    if constraint.kind == "latency_ms" and cost_table is None:
        raise InputError(
            f"latency_ms {constraint.value:g}: needs measured times; make them with `vitcop bench --cost-table`"
        )
    sets = {CALIBRATION: calibration_samples, SELECTION: selection_samples}
    with _opened(checkpoint, sets, seed, settings, store, progress, open_executor, cost_table, limits) as search:
        return search.run(constraint, merged)


def measure_shard(
    checkpoint: Checkpoint,
    calibration_samples: Sequence[Sample],
    selection_samples: Sequence[Sample],
    shard: Shard,
    *,
    seed: int = 0,
    settings: CalibrationSettings | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
    open_executor: Callable[[Factory], Executor] = InProcess,
) -> PartialTable:
    """One shard of the sensitivity table, which is most of the work; arguments as those of `calibrate`.

    The table does not depend on the constraint: one serves them all.
    """
    sets = {CALIBRATION: calibration_samples, SELECTION: selection_samples}
    with _opened(checkpoint, sets, seed, settings, store, progress, open_executor, None, ()) as search:
        return search.shard(shard)


@contextmanager
def _opened(
    checkpoint: Checkpoint,
    sets: dict[str, Sequence[Sample]],
    seed: int,
    settings: CalibrationSettings | None,
    store: str | Path | None,
    progress: Progress | None,
    open_executor: Callable[[Factory], Executor],
    cost_table: CostTable | None,
    limits: Sequence[SubsetLimit],
) -> "Iterator[_Search]":
    """A search whose inputs are checked and whose workers are there."""
    settings, progress = settings or CalibrationSettings(), progress or NoProgress()
    check_samples(sets[CALIBRATION], sets[SELECTION])
    check_seed("seed", seed)
    if cost_table is not None:
        cost_table.check_model(checkpoint.config_hash)
    parts: dict[str, Sequence[Sequence[Sample]]] = {
        CALIBRATION: rungs(sets[CALIBRATION], settings, seed),
        # In pieces, so that an interruption loses little and workers share the work.
        SELECTION: pieces(sets[SELECTION], 4 * settings.batch_size),
    }
    every = [part for cut in parts.values() for part in cut]
    job = Job.of(checkpoint, settings, every, threads=settings.threads, store=Store(store), progress=progress)
    digests = {name: [samples_digest(part) for part in cut] for name, cut in parts.items()}
    with open_executor(job.factory()) as executor:
        measuring = Measuring(executor, job.store, job.base, digests, progress)
        yield _Search(checkpoint, job, executor, measuring, sets, seed, settings, cost_table, tuple(limits), progress)


class _Search:
    """One run of `calibrate`: what is known of the model and the samples, and everything measured so far."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        job: Job,
        executor: Executor,
        measuring: Measuring,
        samples: dict[str, Sequence[Sample]],
        seed: int,
        settings: CalibrationSettings,
        cost_table: CostTable | None,
        limits: tuple[SubsetLimit, ...],
        progress: Progress,
    ) -> None:
        self.checkpoint, self.job, self.executor, self.measuring = checkpoint, job, executor, measuring
        self.samples, self.seed, self.settings, self.limits, self.progress = samples, seed, settings, limits, progress
        self.model = measuring.model()
        prompts = measuring.prompts(CALIBRATION)
        measuring.prompts(SELECTION)
        counts = Counter(visual for visual, _ in prompts if visual)
        if not counts:
            raise InputError("no calibration sample has an image or a video, so there is nothing to drop")
        num_visual = counts.most_common(1)[0][0]
        text_tokens = round(median(text for _, text in prompts))
        self.planning = Planning(
            num_layers=self.model.num_layers,
            num_visual=num_visual,
            text_tokens=text_tokens,
            shape=self.model.shape,
            saliency=self.model.vision_scores[0],
            settings=settings,
            cost_table=cost_table,
        )
        self.overflowed: set[str] = set()

    def shard(self, shard: Shard) -> PartialTable:
        """This shard's share of the sensitivity table."""
        units = self._table_units(self._observe())
        return perform_shard(
            self.executor, units, shard, run=self._run_facts(), store=self.job.store, progress=self.progress
        )

    def run(self, constraint: Constraint, merged: PartialTable | None = None) -> Calibration:
        """Everything else."""
        if constraint.kind == "budget":
            check_one_token(constraint.value, self.planning.num_visual)
        observation = self._observe()
        units = self._table_units(observation)
        if merged is not None:
            take_in(merged, units, run=self._run_facts(), store=self.job.store)
        rows = self.measuring.table(units)
        self.overflowed |= {row.choice.name for row in rows if not row.losses.is_finite}
        if rows and len(self.overflowed) == len(rows):
            raise self._all_overflow()
        self.planning.learn(rows)
        original = self.measuring.original(SELECTION)
        tried, losses = self._search(constraint)
        chosen, finalists, broken = self._choose(tried, constraint, original)
        wanted = constraint.value if constraint.kind == "budget" else chosen.schedule.budget(self.planning.num_visual)
        curve = Curve(
            self.planning,
            self.measuring,
            self.samples[SELECTION],
            self.seed,
            searched=CALIBRATION,
            told=SELECTION,
        )
        others = curve.others(chosen.schedule, wanted)
        points = curve.points(chosen, others, wanted)
        return summarise(
            Found(
                constraint=constraint,
                budget=wanted,
                observation=observation,
                rows=rows,
                tried=tried,
                losses=losses,
                original=original,
                chosen=chosen,
                methods=[*finalists, *others],
                violations=broken,
                curve=points,
                overflowed=self.overflowed | curve.overflowed,
            ),
            planning=self.planning,
            checkpoint=self.checkpoint,
            job=self.job,
            samples=self.samples,
            seed=self.seed,
        )

    # -- what the model is like ---------------------------------------------------------------------------------------

    def _observe(self) -> Observation:
        return self.measuring.observation(CALIBRATION, self.settings.check_share)

    def _table_units(self, observation: Observation) -> list[Json]:
        """Every admitted drop alone."""
        planning, found = self.planning, []
        keeps = keep_counts(planning.num_visual, num=self.settings.keep_counts)
        for cell in cells(planning.num_layers, planning.num_visual, keeps=keeps):
            scores = self.model.vision_scores if cell.layer == AT_INPUT else self.model.search_scores
            rules = candidate_rules(cell.layer, scores, self.settings)
            admitted = admitted_rules(rules, cell.layer, observation)
            found.append([Choice(layer=cell.layer, keep=cell.keep, rule=rule) for rule in admitted])
        return self.measuring.table_units(
            CALIBRATION, found, num_visual=planning.num_visual, saliency=planning.saliency, centers=CENTERS
        )

    def _run_facts(self) -> dict[str, Any]:
        return self.job.run_facts(seed=self.seed, sets=self.samples)

    # -- the search ---------------------------------------------------------------------------------------------------

    def _search(self, constraint: Constraint) -> tuple[list[Tried], dict[Schedule, Losses]]:
        """(the starts and what the refinement made of them, in the order in which they were tried; their losses)."""
        starts = self.planning.starts(constraint, self.settings.forecast_sets)
        losses: dict[Schedule, Losses] = {}

        def evaluate(schedules: Sequence[Schedule]) -> list[float]:
            losses.update(zip(schedules, self.measuring.losses(CALIBRATION, schedules), strict=True))
            return [_kl(losses[schedule]) for schedule in schedules]

        tried = refine(
            starts,
            RefineSpace(
                rules=self.planning.rules, max_drops=self.settings.max_drops, num_visual=self.planning.num_visual
            ),
            fit=lambda choices: self.planning.fit(choices, constraint),
            schedule_of=self.planning.schedule,
            evaluate=evaluate,
            settings=RefineSettings(
                # With nothing to drop there is nothing to refine.
                generations=self.settings.generations if any(starts) else 0,
                size=self.settings.generation_size,
                seed=self.seed,
            ),
            value=self.planning.value(constraint),
        )
        self.overflowed |= {named(item.choices) for item in tried if not math.isfinite(item.loss)}
        return tried, losses

    def _choose(
        self, tried: Sequence[Tried], constraint: Constraint, original: Losses
    ) -> tuple[Scheduled, list[Scheduled], dict[str, list[str]]]:
        """(the chosen one, all finalists best first, broken limits by name)."""
        best = sorted(
            (item for item in tried if math.isfinite(item.loss)), key=lambda item: (item.value, named(item.choices))
        )[: self.settings.finalists]
        if constraint.limits_loss:
            # What meets the limit on one set may not on the other; dropping nothing always does.
            empty = self.planning.schedule(())
            best += [Tried(choices=(), schedule=empty, loss=0.0, value=0.0, generation=0)]
        losses = self.measuring.losses(
            SELECTION, [item.schedule for item in best], answers=True, title="finalists, selection"
        )
        methods = [
            Scheduled(named(item.choices), item.schedule, found, item.choices)
            for item, found in zip(best, losses, strict=True)
        ]
        self.overflowed |= {method.name for method in methods if not method.losses.is_finite}
        finite = [method for method in methods if method.losses.is_finite]
        if not finite:
            raise self._all_overflow()
        value = self.planning.value(constraint)
        order = sorted(
            finite, key=lambda method: (value(method.choices, method.losses.estimates()["kl"].mean), method.name)
        )
        broken = {method.name: found for method in order if (found := self._broken(method.losses, original))}
        kept = [method for method in order if method.name not in broken]
        if not kept:
            raise InputError(
                f"no finalist keeps the limits on subsets: the best, {order[0].name}, breaks "
                f"{broken[order[0].name][0]}; allow more, or a larger budget"
            )
        return kept[0], order, broken

    def _all_overflow(self) -> InputError:
        return InputError(
            f"the logits of every schedule tried are not finite with dtype {self.settings.dtype} (first "
            f"{min(self.overflowed)}): the model overflows; try bfloat16 or float32"
        )

    def _broken(self, losses: Losses, original: Losses) -> list[str]:
        if not self.limits:
            return []
        samples = self.samples[SELECTION]
        found = violations(
            {measure: losses.by_id(measure) for measure in ("score", "kl")},
            {measure: original.by_id(measure) for measure in ("score", "kl")},
            self.limits,
            subsets={sample.id: sample.subset for sample in samples},
            clusters=clusters_by_id(samples),
            seed=self.seed,
        )
        return [
            f"{item.limit.subset}: {item.limit.measure} {item.drop.mean:.4f} worse, {item.limit.max_drop:g} allowed"
            for item in found
        ]


def _kl(losses: Losses) -> float:
    return losses.estimates()["kl"].mean if losses.is_finite else math.inf
