"""From the result files of a run to what the page shows. A file that is missing leaves its part out, and the page says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.pipeline.inspection import stage_names
from vitcop.pipeline.reporting.costs import bench_costs, formula_costs
from vitcop.pipeline.reporting.model import Curve, CurvePoint, GateRow, Report, RungRow, Score, Staircase, Tile, TimeBar, TimeRow
from vitcop.pipeline.steps.verify import read_object

if TYPE_CHECKING:
    from vitcop.calibrate.schedule import Schedule
    from vitcop.export.bundle import Bundle

Json = Mapping[str, Any]

RUNGS = {"original": "original", "pruned": "pruned PyTorch", "engine": "engine", "uniform": "uniform", "random": "random"}
"""Rungs of verify.json and what the page calls them."""

BENCH_RUNGS = {
    "engine_unpruned": "engine, unpruned",
    "engine": "engine, pruned",
    "torch_original": "PyTorch, unpruned",
    "torch_pruned": "PyTorch, pruned",
}

FILES = {
    "calibration": ("calibration.json", "The schedule was given, not searched for, so there is no curve."),
    "verify": ("verify.json", "The bundle was not verified."),
    "bench": ("bench.json", "No times were measured."),
}
"""Result files by part, and what the page says where one is missing."""


def read_results(folder: Path) -> dict[str, Json | None]:
    """The result files of a run, None for those that are not there."""
    return {part: read_object(folder / name) if (folder / name).is_file() else None for part, (name, _) in FILES.items()}


def collect(bundle: "Bundle", results: Mapping[str, Json | None], *, title: str = "", **pictures: Any) -> Report:
    """Fill the page.

    Args:
        results: contents of calibration.json, verify.json and bench.json by part, None where missing.
        pictures: `overlays` and what is said where there are none.
    """
    calibration, verify, bench = (results[part] for part in ("calibration", "verify", "bench"))
    schedule, shape = bundle.schedule, bundle.manifest.architecture
    text_tokens = _text_tokens(calibration, bench)
    costs, cost_note = formula_costs(bundle, text_tokens)
    measured, peak_note = bench_costs(bench)
    return Report(
        title=title or bundle.manifest.model_id,
        passed=None if verify is None else bool(verify["passed"]),
        sentence=_sentence(verify),
        tiles=_tiles(schedule, shape.num_visual, verify, bench),
        gates=None if verify is None else tuple(_gate(gate) for gate in verify["gates"]),
        curves=_curves(calibration),
        staircase=_staircase(schedule, shape.num_visual),
        times=None if bench is None else _times(bench),
        time_rows=() if bench is None else _time_rows(bench),
        time_notes=() if bench is None else (_bench_settings(bench), *bench["notes"]),
        costs=(*costs, *measured),
        cost_note=" ".join(part for part in (cost_note, peak_note) if part),
        rungs=_rungs(verify),
        subsets=_subsets(verify),
        provenance=_provenance(bundle, calibration, verify, bench),
        missing={part: text for part, (_, text) in FILES.items() if results[part] is None},
        **pictures,
    )


def percent(value: float, digits: int = 1) -> str:
    """A share as text."""
    return f"{100 * value:.{digits}f} %"


def _sentence(verify: Json | None) -> str:
    if verify is None:
        return "Not verified: there is no verify.json in this folder, so nothing here is proved."
    failed = [gate for gate in verify["gates"] if gate["passed"] is False]
    if failed:
        named = "; ".join(f"{gate['name']} is {_plain(gate['value'])}, limit {_plain(gate['limit'])}" for gate in failed)
        return f"{len(failed)} of {len(verify['gates'])} gates failed: {named}."
    worst = _plain(verify["export_loss"]["logit_deviation_max"])
    count = verify["samples"]["count"]
    return f"On {count} samples the engine answers as pruned PyTorch does; its logits are at most {worst} away, and every gate holds."


def _tiles(schedule: "Schedule", num_visual: int, verify: Json | None, bench: Json | None) -> tuple[Tile, ...]:
    groups = schedule.group_counts(num_visual)
    tiles = [
        Tile(label="Budget", value=percent(schedule.budget(num_visual)), note=f"of the visual tokens, mean over {schedule.num_layers} layers"),
        Tile(label="Tokens at LLM input", value=f"{groups[0]}", note=f"of {num_visual} ({percent(groups[0] / num_visual)})"),
        Tile(label="Tokens by layer group", value=" → ".join(map(str, groups)), note=_group_note(schedule)),
    ]
    scores = (verify or {}).get("scores") or {}
    if verify is not None and scores:
        table = scores["all"]
        values = " → ".join(f"{100 * table['rungs'][rung]['mean']:.1f}" for rung in ("original", "pruned", "engine"))
        loss = table["differences"]["schedule_loss"]
        interval = f"{100 * loss['low']:+.1f} to {100 * loss['high']:+.1f}"
        note = f"original → pruned → engine; lost {100 * loss['mean']:+.1f} points (95 %: {interval})"
        tiles.append(Tile(label=f"Score, % {verify['settings']['metric'].replace('_', ' ')}", value=values, note=note))
    if verify is not None:
        loss = verify["export_loss"]
        note = f"largest logit deviation; {loss['near_tie_samples']} near-ties in {verify['samples']['count']} samples"
        tiles.append(Tile(label="Export loss", value=_plain(loss["logit_deviation_max"]), note=note))
    ratios = (bench or {}).get("ratios", {}).get("engine_unpruned")
    if bench is not None and ratios and "prefill" in ratios:
        note = f"prefill; the whole answer {ratios['total']:.2f}× (unpruned engine, same run)"
        tiles.append(Tile(label="Speed", value=f"{ratios['prefill']:.2f}×", note=note))
    return tuple(tiles)


def _group_note(schedule: "Schedule") -> str:
    if not schedule.drops:
        return "nothing is dropped inside the LLM"
    layers = " and ".join(str(drop.layer) for drop in schedule.drops)
    return f"drops before layer{'s' * (len(schedule.drops) > 1)} {layers} of {schedule.num_layers}"


def _gate(gate: Json) -> GateRow:
    return GateRow(
        name=gate["name"].replace("_", " "),
        measured=_plain(gate["value"]),
        limit="" if gate["limit"] is None else _plain(gate["limit"]),
        passed=gate["passed"],
        note=gate.get("note", ""),
    )


def _curves(calibration: Json | None) -> tuple[Curve, ...]:
    """Task score (where answers are known) and KL against budget, on the selection samples."""
    if calibration is None:
        return ()
    exact = calibration["original"].get("exact")
    curves = []
    if exact is not None:
        points = _points(calibration, "exact")
        curves.append(Curve(points=points, title="Task score", unit="exact match on the selection samples, %", baseline=exact["mean"], percent=True))
    points = _points(calibration, "kl")
    curves.append(Curve(points=points, title="Distance from the original", unit="KL of the answers, nats (lower is better)", baseline=0.0))
    return tuple(curves)


def _points(calibration: Json, quantity: str) -> tuple[CurvePoint, ...]:
    """Points of the curve, and the finalists at the budget that was asked for."""
    chosen = calibration["chosen"]
    points = []
    for entry in calibration["curve"]:
        kind = "same" if entry["kind"] == "chosen" else entry["kind"]
        points.append((kind, entry["measured"]))
    for measured in calibration["selection"]:
        name = measured["name"]
        kind = name if name in ("paper", "uniform", "random") else "candidate"
        points.append(("chosen" if name == chosen else kind, measured))
    found: dict[tuple[str, float, float], CurvePoint] = {}
    for kind, measured in points:
        value = measured[quantity]
        if value is not None:
            point = CurvePoint(label=measured["name"], budget=measured["budget"], score=value["mean"], error=value["error"], kind=kind)
            found[kind, point.budget, point.score] = point
    return tuple(found.values())


def _staircase(schedule: "Schedule", num_visual: int) -> Staircase:
    return Staircase(
        counts=schedule.layer_counts(num_visual),
        num_visual=num_visual,
        groups=tuple((group[0], group[-1]) for group in schedule.groups),
        group_counts=schedule.group_counts(num_visual),
        stages=tuple(stage_names(schedule)),
    )


def _times(bench: Json) -> tuple[TimeBar, ...]:
    steps, bars = bench["batch"]["new_tokens"], []
    for rung, label in BENCH_RUNGS.items():
        if rung not in bench["rungs"]:
            continue
        seconds = bench["rungs"][rung]["seconds"]
        parts = {
            "vision tower": seconds["vision"]["median"],
            "prefill": seconds["prefill"]["median"],
            "decode": seconds["decode_per_token"]["median"] * steps,
        }
        bars.append(TimeBar(label=label, parts=tuple((name, 1000 * value) for name, value in parts.items() if value)))
    return tuple(bars)


def _time_rows(bench: Json) -> tuple[TimeRow, ...]:
    rows = []
    for rung, label in BENCH_RUNGS.items():
        if rung in bench["rungs"]:
            seconds = bench["rungs"][rung]["seconds"]
            cells = tuple(_milliseconds(seconds.get(part)) for part in ("vision", "selector", "prefill", "decode_per_token", "total"))
            rows.append(TimeRow(label=label, cells=cells))
    return tuple(rows)


def _milliseconds(timing: Json | None) -> tuple[str, str]:
    """(median, quartiles) in ms."""
    if timing is None:
        return "–", ""
    low, middle, high = (1000 * timing[name] for name in ("low", "median", "high"))
    return f"{middle:.2f}", f"{low:.2f}–{high:.2f}"


def _bench_settings(bench: Json) -> str:
    batch, settings = bench["batch"], bench["settings"]
    return (
        f"{bench['bundle']['target']}, batch {batch['rows']}, {batch['prompt_tokens']} prompt tokens of which {batch['visual_tokens']} visual, "
        f"{batch['new_tokens']} decoded; median of {settings['repeats']} after {settings['warmup']} warm-up runs, quartiles below it"
    )


def _rungs(verify: Json | None) -> tuple[str, ...]:
    scores = (verify or {}).get("scores") or {}
    return tuple(RUNGS[rung] for rung in RUNGS if rung in scores.get("all", {}).get("rungs", {}))


def _subsets(verify: Json | None) -> tuple[RungRow, ...] | None:
    scores = (verify or {}).get("scores") or {}
    if not scores:
        return None
    tables = {"all": scores["all"], **scores["subsets"]}
    return tuple(_subset(name, table) for name, table in tables.items())


def _subset(name: str, table: Json) -> RungRow:
    means = {rung: table["rungs"][rung] for rung in RUNGS if rung in table["rungs"]}
    loss = table["differences"].get("schedule_loss")
    return RungRow(
        subset=name,
        count=table["count"],
        scores=tuple(Score(mean=value["mean"], error=value["standard_error"]) for value in means.values()),
        loss=None if loss is None else (loss["mean"], loss["low"], loss["high"]),
    )


def _text_tokens(calibration: Json | None, bench: Json | None) -> int | None:
    """Tokens of a typical prompt that are not visual."""
    if calibration is not None:
        return int(calibration["text_tokens"])
    return bench["batch"]["prompt_tokens"] - bench["batch"]["visual_tokens"] if bench is not None else None


def _provenance(bundle: "Bundle", calibration: Json | None, verify: Json | None, bench: Json | None) -> tuple[tuple[str, str], ...]:
    manifest = bundle.manifest
    rows = [
        ("model", f"{manifest.model_id} ({manifest.family})"),
        ("config", manifest.config_hash),
        ("schedule", manifest.schedule_hash),
        ("computes in", manifest.architecture.dtype),
        ("bundle made with", _versions(manifest.versions)),
    ]
    if calibration is not None:
        for name, facts in calibration["samples"].items():
            rows.append((f"{name} samples", f"{facts['num']} ({facts['digest']})"))
        rows += [("calibration seed", str(calibration["seed"])), ("calibrated with", _versions(calibration["versions"]))]
    if verify is not None:
        rows.append(("evaluation samples", f"{verify['samples']['count']} ({verify['samples']['digest']})"))
        rows.append(("verified", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sorted(verify["settings"].items()))))
        rows.append(("verified with", _versions(verify["versions"])))
    if bench is not None:
        machine = bench["machine"]
        memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine.get("memory_bytes") else ""
        rows.append(("timed on", f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['os']}"))
    return tuple(rows)


def _versions(versions: Json) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))


def _plain(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
