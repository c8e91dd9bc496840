"""What a search found, as calibration.json and schedule.json tell of it."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vitcop.calibrate.data.image_clusters import clusters_by_id
from vitcop.calibrate.data.samples import Sample, samples_digest
from vitcop.calibrate.evaluate.evaluation import Losses
from vitcop.calibrate.evaluate.sensitivity import Row
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule.choices import named
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.search.calibration import Calibration, CurvePoint, Forecast, Measured, TableEntry
from vitcop.calibrate.search.constraints import Constraint
from vitcop.calibrate.search.forecast import rank_agreement
from vitcop.calibrate.search.planning import Method, Planning, Scheduled
from vitcop.calibrate.search.refine import Tried
from vitcop.calibrate.search.sample_parts import CALIBRATION, SELECTION
from vitcop.calibrate.stats.verdict import Comparison, Measure, compare
from vitcop.calibrate.work.job import Job


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that a search measured.

    Args:
        losses: of the schedules tried, on the calibration set.
        methods: on the selection set: finalists best first, then others.
        original: the unpruned model on it.
    """

    constraint: Constraint
    budget: float
    observation: Observation
    rows: Sequence[Row]
    tried: Sequence[Tried]
    losses: Mapping[Schedule, Losses]
    original: Losses
    chosen: Scheduled
    methods: Sequence[Method]
    violations: dict[str, list[str]]
    curve: Sequence[CurvePoint]
    overflowed: set[str]


def summarise(
    found: Found,
    *,
    planning: Planning,
    checkpoint: Checkpoint,
    job: Job,
    samples: Mapping[str, Sequence[Sample]],
    seed: int,
) -> Calibration:
    """All of it, with the chosen schedule and where it comes from."""
    clusters = {name: clusters_by_id(members) for name, members in samples.items()}
    chosen = planning.measured(found.chosen, clusters[SELECTION])
    sets = {
        name: {"digest": samples_digest(members), "num": len(members), "ids": [sample.id for sample in members]}
        for name, members in samples.items()
    }
    finite = [item for item in found.tried if math.isfinite(item.loss)]
    candidates = [
        planning.measured(
            Method(named(item.choices), item.schedule, found.losses[item.schedule], item.choices), clusters[CALIBRATION]
        )
        for item in finite
    ]
    forecasts = [
        Forecast(
            name=named(item.choices),
            forecast=_finite(planning.forecast(item.choices)),
            measured=item.loss,
            generation=item.generation,
        )
        for item in finite
    ]
    starts = [
        (item.forecast, item.measured) for item in forecasts if item.generation == 0 and item.forecast is not None
    ]
    ranking = rank_agreement([said for said, _ in starts], [measured for _, measured in starts])
    return Calibration(
        schedule=replace(
            found.chosen.schedule,
            model_id=checkpoint.model_id,
            config_hash=checkpoint.config_hash,
            provenance=_provenance(found, planning, chosen)
            | {
                "model": job.base["model"],
                "samples": sets,
                "seed": seed,
                "versions": job.base["versions"],
            },
        ),
        constraint=asdict(found.constraint),
        budget=found.budget,
        seed=seed,
        num_visual=planning.num_visual,
        text_tokens=planning.text_tokens,
        samples=sets,
        versions=job.base["versions"],
        original=_original(found.original, planning, clusters[SELECTION]),
        observation=found.observation,
        table=tuple(
            TableEntry(choice=row.choice, kl=row.losses.estimates(clusters[CALIBRATION])["kl"], survived=row.survived)
            for row in found.rows
            if row.losses.is_finite
        ),
        candidates=tuple(sorted(candidates, key=lambda item: (item.kl.mean, item.name))),
        forecasts=tuple(forecasts),
        ranking=ranking.to_json(),
        selection=tuple(planning.measured(method, clusters[SELECTION]) for method in found.methods),
        chosen=found.chosen.name,
        comparisons=tuple(_comparisons(found, clusters[SELECTION], seed)),
        violations=found.violations,
        curve=tuple(found.curve),
        overflowed=tuple(sorted(found.overflowed)),
    )


def _comparisons(found: Found, clusters: Mapping[str, Hashable], seed: int) -> list[Comparison]:
    """Every other method against the chosen one."""
    chosen = found.chosen
    measures: list[Measure] = ["kl", "score"] if chosen.losses.by_id("score") else ["kl"]
    return [
        compare(
            method.name,
            method.losses.by_id(measure),
            chosen.losses.by_id(measure),
            clusters,
            measure=measure,
            seed=seed,
        )
        for method in found.methods
        if method.name != chosen.name
        for measure in measures
    ]


def _original(losses: Losses, planning: Planning, clusters: Mapping[str, Hashable]) -> dict[str, Any]:
    estimates = losses.estimates(clusters)
    cost = planning.cost(planning.schedule(()).layer_counts(planning.num_visual))
    return {name: (found := estimates[name]) and asdict(found) for name in ("exact", "score")} | {"cost": cost}


def _provenance(found: Found, planning: Planning, chosen: Measured) -> dict[str, Any]:
    return {
        "chosen": chosen.name,
        "constraint": {**asdict(found.constraint), "num_visual": planning.num_visual},
        "forecast": {
            "kl": _finite(planning.forecast(chosen.choices)),
            "budget": chosen.budget,
            "seconds": planning.seconds(found.chosen.schedule),
            **chosen.cost,
        },
        "measured": {
            name: getattr(chosen, name) and asdict(getattr(chosen, name)) for name in ("kl", "top1", "exact", "score")
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
