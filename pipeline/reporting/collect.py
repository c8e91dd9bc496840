"""From the result files of a run to what the page shows. Where a file is missing, the page says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.core.strict_json import read_object
from vitcop.pipeline.inspection import stage_names
from vitcop.pipeline.reporting.costs import bench_costs, formula_costs
from vitcop.pipeline.reporting.model import Report, Staircase, Tile
from vitcop.pipeline.reporting.numbers import percent, plain, points
from vitcop.pipeline.reporting.quality import Json, curves_of, gate_row, loss_rows, method_rows, rung_names, subset_rows
from vitcop.pipeline.reporting.score_grid import score_grids, score_note
from vitcop.pipeline.reporting.timing import bench_notes, bench_settings, time_bars, time_rows

if TYPE_CHECKING:
    from vitcop.calibrate.schedule.schedule import Schedule
    from vitcop.export.bundle import Bundle

FILES = {
    "calibration": ("calibration.json", "The schedule was given, not searched for, so there is no curve."),
    "verify": ("verify.json", "The bundle was not verified."),
    "bench": ("bench.json", "No times were measured."),
}
"""Result files by part, and what the page says where one is missing."""


def read_results(folder: Path) -> dict[str, Json | None]:
    """The result files of a run, None for those that are not there."""
    return {
        part: read_object(folder / name) if (folder / name).is_file() else None for part, (name, _) in FILES.items()
    }


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
        gates=None if verify is None else tuple(gate_row(gate) for gate in verify["gates"]),
        losses=() if verify is None else loss_rows(verify),
        curves=curves_of(calibration),
        methods=method_rows(calibration),
        score_grids=score_grids(calibration),
        score_note=score_note(calibration),
        staircase=_staircase(schedule, shape.num_visual),
        times=None if bench is None else time_bars(bench),
        time_rows=() if bench is None else time_rows(bench),
        time_notes=() if bench is None else (bench_settings(bench), *bench_notes(bench)),
        costs=(*costs, *measured),
        cost_note=" ".join(part for part in (cost_note, peak_note) if part),
        rungs=rung_names(verify),
        subsets=subset_rows(verify),
        provenance=_provenance(bundle, calibration, verify, bench),
        missing={part: text for part, (_, text) in FILES.items() if results[part] is None},
        **pictures,
    )


def _sentence(verify: Json | None) -> str:
    if verify is None:
        return "There is no verify.json in this folder, so nothing here is proved."
    failed = [gate for gate in verify["gates"] if gate["passed"] is False]
    if failed:
        named = "; ".join(f"{gate['name']} is {plain(gate['value'])}, limit {plain(gate['limit'])}" for gate in failed)
        return f"{len(failed)} of {len(verify['gates'])} gates failed: {named}."
    worst = plain(verify["export_loss"]["logit_deviation_max"])
    count = verify["samples"]["count"]
    return (
        f"On {count} samples the engine answers as pruned PyTorch does; its logits are at most {worst} away, "
        "and every gate holds."
    )


def _tiles(schedule: "Schedule", num_visual: int, verify: Json | None, bench: Json | None) -> tuple[Tile, ...]:
    groups = schedule.group_counts(num_visual)
    tiles = [
        Tile(
            label="Budget",
            value=percent(schedule.budget(num_visual)),
            note=f"of the visual tokens, mean over {schedule.num_layers} layers",
        ),
        Tile(
            label="Tokens at LLM input",
            value=f"{groups[0]}",
            note=f"of {num_visual} ({percent(groups[0] / num_visual)})",
        ),
        Tile(label="Tokens by layer group", value=" → ".join(map(str, groups)), note=_group_note(schedule)),
    ]
    scores = (verify or {}).get("scores") or {}
    if verify is not None and scores:
        table = scores["all"]
        values = " → ".join(f"{100 * table['rungs'][rung]['mean']:.1f}" for rung in ("original", "pruned", "engine"))
        loss = table["differences"]["schedule_loss"]
        interval = f"{points(loss['low'])} to {points(loss['high'])}"
        note = f"original → pruned → engine; original − pruned {points(loss['mean'])} points (95 %: {interval})"
        tiles.append(Tile(label=f"Score, % {verify['settings']['metric'].replace('_', ' ')}", value=values, note=note))
    if verify is not None:
        loss = verify["export_loss"]
        note = f"largest logit deviation; {loss['near_tie_samples']} near-ties in {verify['samples']['count']} samples"
        tiles.append(Tile(label="Export loss", value=plain(loss["logit_deviation_max"]), note=note))
    ratios = (bench or {}).get("ratios", {}).get("engine_unpruned")
    if bench is not None and ratios and "prefill" in ratios:
        note = f"prefill; the whole answer {ratios['total']:.2f}× against the unpruned engine"
        tiles.append(Tile(label="Speed", value=f"{ratios['prefill']:.2f}×", note=note))
    return tuple(tiles)


def _group_note(schedule: "Schedule") -> str:
    if not schedule.drops:
        return "nothing is dropped inside the LLM"
    layers = " and ".join(str(drop.layer) for drop in schedule.drops)
    return f"drops before layer{'s' * (len(schedule.drops) > 1)} {layers} of {schedule.num_layers}"


def _staircase(schedule: "Schedule", num_visual: int) -> Staircase:
    return Staircase(
        counts=schedule.layer_counts(num_visual),
        num_visual=num_visual,
        groups=tuple((group[0], group[-1]) for group in schedule.groups),
        group_counts=schedule.group_counts(num_visual),
        stages=tuple(stage_names(schedule)),
    )


def _text_tokens(calibration: Json | None, bench: Json | None) -> int | None:
    """Tokens of a typical prompt that are not visual."""
    if calibration is not None:
        return int(calibration["text_tokens"])
    return bench["batch"]["prompt_tokens"] - bench["batch"]["visual_tokens"] if bench is not None else None


def _provenance(
    bundle: "Bundle", calibration: Json | None, verify: Json | None, bench: Json | None
) -> tuple[tuple[str, str], ...]:
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
        rows += [
            ("calibration seed", str(calibration["seed"])),
            ("calibrated with", _versions(calibration["versions"])),
        ]
    if verify is not None:
        rows.append(("evaluation samples", f"{verify['samples']['count']} ({verify['samples']['digest']})"))
        rows.append(
            (
                "verified",
                ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sorted(verify["settings"].items())),
            )
        )
        rows.append(("verified with", _versions(verify["versions"])))
    if bench is not None:
        machine = bench["machine"]
        memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine.get("memory_bytes") else ""
        rows.append(("timed on", f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['os']}"))
    return tuple(rows)


def _versions(versions: Json) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
