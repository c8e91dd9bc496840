"""Results of a run made up by hand, in the very types that calibrate, verify and bench write."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_project import CONFIG

from vitcop.calibrate.evaluate.losses import Estimate
from vitcop.calibrate.observe.observation import Agreement, Check, Observation
from vitcop.calibrate.schedule.choices import Choice, Rule
from vitcop.calibrate.schedule.latency import MEANINGS, CostTable, Trial
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.calibrate.search.calibration import Calibration, CurvePoint, Forecast, Measured, TableEntry
from vitcop.calibrate.stats.cluster_interval import Interval
from vitcop.calibrate.stats.intervals import Interval as MeanInterval
from vitcop.calibrate.stats.verdict import Comparison
from vitcop.export.bundle import Architecture, schedule_hash
from vitcop.export.measure import Bench, GateResult, Verification

SCHEDULE = Schedule(
    num_layers=4,
    model_id="toy",
    vision=VisionStage(keep=(8, 16), clusters=Clusters(centers=(18, 100))),
    drops=(Drop(layer=1, op="merge", keep=(6, 8)), Drop(layer=3, score="text_query", order="largest", keep=(2, 6))),
)
VERSIONS = {"vitcop": "0.1.0", "torch": "2.13.0"}


def bundle(folder: Path, schedule: Schedule = SCHEDULE) -> Any:
    """What the report reads of a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shape = Architecture(
        num_layers=4,
        num_visual=16,
        vision_inputs=(),
        num_planes=0,
        position_axes=1,
        patches_per_token=1,
        visual_tokens=(4,),
        hidden_size=8,
        sliding_layers=(),
        num_kv_heads=1,
        head_dim=4,
        vocab_size=32,
        eos_token_ids=(2,),
        dtype="float32",
    )
    manifest = SimpleNamespace(
        model_id="toy <model>",
        family="llava",
        config_hash="c" * 64,
        schedule_hash=schedule_hash(schedule),
        architecture=shape,
        versions=VERSIONS,
    )
    return SimpleNamespace(path=folder, schedule=schedule, manifest=manifest)


def observation(layers: int = 4) -> Observation:
    """Small norms matter before layer 1, large ones before layer 2; nothing tells anything later."""

    def agreement(layer: int, score: str, rank: float, largest: float, smallest: float) -> Agreement:
        spread = (Interval(value, value - 0.02, value + 0.02) for value in (rank, largest, smallest))
        return Agreement(
            dependence="attention",
            layer=layer,
            score=score,
            **dict(zip(("rank", "largest", "smallest"), spread, strict=True)),
        )

    norms = {1: (-0.3, 0.1, 0.4), 2: (0.2, 0.25, 0.05)}
    entries = [agreement(0, "class_attention", 0.5, 0.5, 0.01)]
    entries += [agreement(layer, "random", 0.0, 0.11, 0.11) for layer in range(layers)]
    entries += [agreement(layer, "k_norm", *norms.get(layer, (0.01, 0.11, 0.1))) for layer in range(1, layers)]
    checks = tuple(Check(layer=layer, rank=Interval(0.5 + 0.05 * layer, 0.4, 0.8)) for layer in range(layers))
    return Observation(num=96, pictures=26, num_checked=18, agreements=tuple(entries), checks=checks, k_norm=())


def calibration() -> dict[str, Any]:
    """calibration.json with a curve, finalists and controls."""

    choice = Choice(layer=2, keep=5, rule=Rule())

    def measured(name: str, budget: float, exact: float, kl: float) -> Measured:
        return Measured(
            name=name,
            schedule=SCHEDULE,
            group_counts=(8, 6, 2),
            budget=budget,
            kl=Estimate(kl, 0.01, 96),
            top1=Estimate(0.9, 0.01, 96),
            exact=Estimate(exact, 0.02, 96),
            cost={"flops": 1000, "kv_bytes": 100, "input_tokens": 8},
            choices=() if name in ("paper", "uniform", "random", "visionzip") else (choice,),
            score=Estimate(exact, 0.02, 96),
        )

    best = measured("@2 5 k_norm-", 1 / 3, 0.80, 0.02)
    rival = replace(measured("visionzip", 1 / 3, 0.81, 0.015), schedule=None)
    curve = [
        CurvePoint(
            kind=kind,
            wanted=budget,
            measured=measured(kind, budget, exact - drop, kl),
            loss=MeanInterval(mean=kl, low=kl - 0.01, high=kl + 0.01, count=96),
            on_front=kind == "chosen",
            front_share=0.9,
        )
        for budget, exact, kl in ((1 / 3, 0.80, 0.02), (2 / 9, 0.77, 0.05), (1 / 9, 0.70, 0.2))
        for kind, drop in (("chosen", 0.0), ("paper", 0.02), ("uniform", 0.05), ("random", 0.08))
    ]
    others = [measured("@2 6 text_query+", 1 / 3, 0.79, 0.03), measured("paper", 1 / 3, 0.78, 0.04), rival]
    found = Calibration(
        schedule=SCHEDULE,
        constraint={"kind": "budget", "value": 1 / 3},
        budget=1 / 3,
        seed=0,
        num_visual=16,
        text_tokens=9,
        samples={name: {"digest": name[0] * 64, "num": 96} for name in ("calibration", "selection")},
        versions=VERSIONS,
        original={"exact": {"mean": 0.82, "error": 0.02, "num": 96}, "cost": {}},
        observation=observation(),
        table=(TableEntry(choice=choice, kl=Estimate(0.02, 0.01, 96), survived=True),),
        candidates=(best,),
        forecasts=(Forecast(name=best.name, forecast=0.02, measured=0.02, generation=0),),
        ranking={},
        selection=(best, *others),
        chosen=best.name,
        comparisons=tuple(
            Comparison(
                name=other.name,
                measure="kl",
                difference=other.kl.mean - best.kl.mean,
                low=other.kl.mean - best.kl.mean - 0.008,
                high=other.kl.mean - best.kl.mean + 0.008,
                num=96,
                num_clusters=26,
                verdict="worse" if other.kl.mean > 0.028 else "level",
            )
            for other in others
        ),
        violations={},
        curve=tuple(curve),
    )
    return json.loads(found.to_json())


def verification(**how: Any) -> dict[str, Any]:
    """verify.json of two samples."""
    return json.loads(verified(**how).to_json())


def verified(*, passed: bool = True, answers: bool = True, loss: float = 7.6e-6) -> Verification:
    """What `verify` returns for two samples."""
    rungs = {"original": 0.82, "pruned": 0.80, "engine": 0.80, "random": 0.7, "uniform": 0.75}
    table = {
        "count": 2,
        "rungs": {name: {"mean": mean, "standard_error": 0.03} for name, mean in rungs.items()},
        "differences": {"schedule_loss": {"mean": 0.02, "low": -0.011, "high": 0.05, "count": 2}},
    }
    distances = {
        "logit_kl_mean": 0.01,
        "logit_kl_max": 0.5,
        "top1_agreement": 0.98,
        "prefix_share": 0.97,
        "prefix_mean_tokens": 1.9,
        "logit_deviation_max": 2.4,
        "steps": 4,
    }
    row = {"subset": "color", "answers": dict.fromkeys(rungs, "blue"), "scores": dict.fromkeys(rungs, 1.0)}
    return Verification(
        bundle={"model_id": "toy", "schedule_hash": schedule_hash(SCHEDULE), "target": "onnxruntime", "budget": 1 / 3},
        samples={"count": 2, "digest": "e" * 64, "with_answers": 2 * answers},
        settings={"metric": "exact_match", "batch_size": 8, "max_new_tokens": 16, "seed": 0, "device": "cpu"},
        schedule_loss=distances,
        export_loss=distances
        | {
            "logit_deviation_max": loss,
            "kept_agreement": {"vision": 1.0, "drop_0": 1.0, "drop_1": 0.995},
            "near_tie_samples": 1,
            "layer_deviations": [1e-6, 3e-6, 2e-6, float("nan") if loss > 1 else 1e-6],
        },
        scores={"all": table, "subsets": {"color": table, "<i>size</i>": table}} if answers else {},
        gates=(
            GateResult(name="logit_deviation", value=loss, limit=1e-4, passed=passed),
            GateResult(name="near_tie_share", value=0.01, limit=None, passed=None, note="switched off"),
        ),
        rows=tuple({"id": f"evaluation-{i}", **row} for i in range(2)),
        kept=(),
        versions=VERSIONS,
    )


def benchmark() -> dict[str, Any]:
    """bench.json of four rungs."""
    return json.loads(json.dumps(benched().to_dict()))


def cost_table(**changes: Any) -> CostTable:
    """What `bench --cost-table` measures: two schedules tried, forecast 5 % too high and 1 % too low."""
    settings = {
        "model_id": "made-up",
        "config_hash": "0" * 64,
        "num_layers": 4,
        "target": "onnxruntime",
        "options": {},
        "dtype": "float32",
        "rows": 1,
        "visual_tokens": 16,
        "text_tokens": 8,
        "machine": {},
        "settings": {},
        "coefficients": dict.fromkeys(MEANINGS, 1e-6),
        "fit_errors": (0.01,),
        "trials": (
            Trial(schedule="@1 8 k_norm-", num_visual=16, text_tokens=8, forecast=0.0105, measured=0.01),
            Trial(schedule="@2 4 text_query+", num_visual=16, text_tokens=8, forecast=0.0099, measured=0.01),
        ),
    }
    return CostTable(**settings | changes)


def benched() -> Bench:
    """What `bench` returns for four rungs."""

    def timing(seconds: float) -> dict[str, float]:
        return {"median": seconds, "low": 0.9 * seconds, "high": 1.2 * seconds}

    def rung(factor: float, *, selector: float | None) -> dict[str, Any]:
        parts = {"vision": 0.004, "prefill": 0.02, "decode_per_token": 0.003, "total": 0.07}
        seconds = {name: timing(factor * value) for name, value in parts.items()}
        seconds |= {} if selector is None else {"selector": timing(selector)}
        return {
            "dtype": "float16",
            "kv_bytes": int(4096 * factor),
            "kv_lengths": [17, 15, 11],
            "process_peak_bytes": 10**8,
            "seconds": seconds,
        }

    rungs = {
        "engine": rung(1.0, selector=0.001),
        "engine_unpruned": rung(2.5, selector=0.0),
        "torch_pruned": rung(2.0, selector=None),
        "torch_original": rung(3.0, selector=None),
    }
    return Bench(
        bundle={"model_id": "toy", "schedule_hash": schedule_hash(SCHEDULE), "target": "onnxruntime", "budget": 1 / 3},
        batch={"rows": 1, "prompt_tokens": 25, "visual_tokens": 16, "new_tokens": 4},
        rungs=rungs,
        ratios={"engine_unpruned": {"prefill": 2.5, "total": 2.1}},
        machine={
            "cpu": "Some CPU",
            "cores": 2,
            "memory_bytes": 2**34,
            "os": "Linux",
            "python": "3.11",
            "versions": VERSIONS,
        },
        settings={"warmup": 2, "repeats": 10},
        notes=("torch_original runs its vision tower inside its forward", "process_peak_bytes is of the whole process"),
    )


def results(**changes: Any) -> dict[str, Any]:
    """All three by part."""
    return {"calibration": calibration(), "verify": verification(), "bench": benchmark()} | changes


def empty_schedule() -> Schedule:
    """Nothing is dropped."""
    return replace(SCHEDULE, vision=None, drops=())
