"""Quality, from verify.json and calibration.json: gates, the two losses, curves over budgets, scores by subset."""

from collections.abc import Mapping
from typing import Any

from vitcop.pipeline.reporting.charts import KINDS
from vitcop.pipeline.reporting.model import Curve, CurvePoint, GateRow, LossRow, MethodRow, RungRow, Score
from vitcop.pipeline.reporting.numbers import percent, plain

Json = Mapping[str, Any]

RUNGS = {
    "original": "original",
    "pruned": "pruned PyTorch",
    "engine": "engine",
    "uniform": "uniform",
    "random": "random",
}
"""Rungs of verify.json and what the page calls them."""

METHODS = {
    "paper": "paper preset",
    "uniform": "control: uniform",
    "random": "control: random",
    "fastv": "FastV's rule",
    "visionzip": "VisionZip's rule",
    "pyramiddrop": "PyramidDrop's rule",
}
"""Methods of calibration.json that no search made, and what the page calls them."""


def gate_row(gate: Json) -> GateRow:
    """One gate as text."""
    return GateRow(
        name=gate["name"].replace("_", " "),
        measured=plain(gate["value"]),
        limit="" if gate["limit"] is None else plain(gate["limit"]),
        passed=gate["passed"],
        note=gate.get("note", ""),
    )


def loss_rows(verify: Json) -> tuple[LossRow, ...]:
    """The two losses side by side."""
    schedule, export = verify["schedule_loss"], verify["export_loss"]
    rows = [
        ("logit KL, mean over answer tokens (nats)", *(plain(loss["logit_kl_mean"]) for loss in (schedule, export))),
        ("logit KL, worst token (nats)", *(plain(loss["logit_kl_max"]) for loss in (schedule, export))),
        ("same likeliest token", *(percent(loss["top1_agreement"]) for loss in (schedule, export))),
        ("answer up to the first difference", *(percent(loss["prefix_share"]) for loss in (schedule, export))),
        ("largest logit deviation", *(plain(loss["logit_deviation_max"]) for loss in (schedule, export))),
    ]
    kept, layers = export["kept_agreement"], export["layer_deviations"]
    if kept:
        rows.append(("same tokens kept, worst stage", "–", percent(min(kept.values()), 2)))
    finite = [(value, layer) for layer, value in enumerate(layers) if value is not None]
    if len(finite) < len(layers):
        rows.append(("keys and values, worst layer", "–", f"not finite (layer {layers.index(None)})"))
    elif finite:
        rows.append(("keys and values, worst layer", "–", f"{max(finite)[0]:.3g} (layer {max(finite)[1]})"))
    return tuple(LossRow(label=label, schedule=left, export=right) for label, left, right in rows)


def curves_of(calibration: Json | None) -> tuple[Curve, ...]:
    """Task score (where answers are known) and KL against budget, on the selection samples."""
    if calibration is None:
        return ()
    exact = calibration["original"].get("exact")
    curves = []
    if exact is not None:
        points = _points(calibration, "exact")
        curves.append(
            Curve(
                points=points,
                title="Task score",
                unit="exact match on the selection samples, %",
                baseline=exact["mean"],
                percent=True,
            )
        )
    points = _points(calibration, "kl")
    curves.append(
        Curve(
            points=points,
            title="Distance from the original",
            unit="KL of the answers, nats (lower is better)",
            baseline=0.0,
        )
    )
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
        kind = name if name in ("paper", "uniform", "random") else "candidate" if measured["choices"] else "rival"
        points.append(("chosen" if name == chosen else kind, measured))
    # Other methods' rules stand in the table; drawn as well, they would hide the rest.
    points = [(kind, measured) for kind, measured in points if kind in KINDS]
    found: dict[tuple[str, float, float], CurvePoint] = {}
    for kind, measured in points:
        value = measured[quantity]
        if value is not None:
            point = CurvePoint(
                label=measured["name"], budget=measured["budget"], score=value["mean"], error=value["error"], kind=kind
            )
            found[kind, point.budget, point.score] = point
    return tuple(found.values())


def method_rows(calibration: Json | None) -> tuple[MethodRow, ...]:
    """Everything measured at the budget that was asked for, the chosen schedule first, then by KL."""
    if calibration is None:
        return ()
    chosen = calibration["chosen"]
    against = {item["name"]: item for item in calibration["comparisons"] if item["measure"] == "kl"}
    rows = []
    for measured in calibration["selection"]:
        name, found = measured["name"], against.get(measured["name"])
        score = measured["score"]
        rows.append(
            MethodRow(
                name="chosen: " + name if name == chosen else METHODS.get(name, name),
                budget=measured["budget"],
                kl=Score(mean=measured["kl"]["mean"], error=measured["kl"]["error"]),
                score=None if score is None else Score(mean=score["mean"], error=score["error"]),
                difference=None if found is None else (found["difference"], found["low"], found["high"]),
                verdict="" if found is None else found["verdict"],
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.difference is not None, row.kl.mean, row.name)))


def rung_names(verify: Json | None) -> tuple[str, ...]:
    """The rungs that were scored, as the page calls them."""
    scores = (verify or {}).get("scores") or {}
    return tuple(RUNGS[rung] for rung in RUNGS if rung in scores.get("all", {}).get("rungs", {}))


def subset_rows(verify: Json | None) -> tuple[RungRow, ...] | None:
    """Scores over all samples and by subset; None where no sample has an answer."""
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
