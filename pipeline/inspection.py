"""`inspect`: what a bundle, a model folder or a schedule file is, without loading weights."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Facts for machines, text for people."""

    facts: dict[str, Any]
    text: str


def inspect(path: str | Path) -> Inspection:
    """Tell a bundle, a model folder and a schedule file apart and describe it. Raises InputError for anything else."""
    path = Path(path)
    if path.is_file():
        from vitcop.calibrate.schedule import Schedule

        return inspect_schedule(Schedule.load(path))
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    if (path / "manifest.json").is_file():
        return _inspect_bundle(path)
    if (path / "bundle" / "manifest.json").is_file():
        return _inspect_bundle(path / "bundle")
    return _inspect_model(path)


def inspect_schedule(
    schedule: "Schedule", *, num_visual: int | None = None, model: str | Path | None = None
) -> Inspection:
    """A schedule as a table; in tokens where the number of visual tokens is known, else in per cent of the original."""
    if model is not None:
        from vitcop.calibrate.checkpoint import Checkpoint
        from vitcop.pipeline.preflight import model_shape

        num_visual = model_shape(Checkpoint.open(model))[1]
    # Without a number of tokens a large one makes the rounding of keep counts vanish from the ratios.
    count = num_visual or 1_000_000
    groups = [
        {"layers": [layers[0], layers[-1]], "ratio": tokens / count, "how": how}
        | ({"visual_tokens": tokens} if num_visual else {})
        for layers, tokens, how in zip(
            schedule.groups, schedule.group_counts(count), stage_names(schedule), strict=True
        )
    ]
    facts = {
        "kind": "schedule",
        "model_id": schedule.model_id,
        "config_hash": schedule.config_hash,
        "num_layers": schedule.num_layers,
        "budget": schedule.budget(count),
        "visual_tokens": num_visual,
        "positions": schedule.positions,
        "groups": groups,
    }
    rows = [
        (
            _layer_range(group["layers"]),
            str(group.get("visual_tokens", "")),
            f"{100 * group['ratio']:.1f} %",
            group["how"],
        )
        for group in groups
    ]
    header = ("layers", "tokens" if num_visual else "", "of all", "how")
    title = (
        f"schedule for {schedule.model_id or 'any model'} of {schedule.num_layers} layers, budget {facts['budget']:.4f}"
    )
    return Inspection(facts=facts, text="\n".join([title, *table([header, *rows])]))


def stage_names(schedule: "Schedule") -> list[str]:
    """For each layer group how its tokens were chosen, in a few words."""
    vision = schedule.vision
    names = ["all visual tokens"]
    if vision is not None:
        clusters = (
            f", {vision.clusters.centers[0]}/{vision.clusters.centers[1]} cluster centres" if vision.clusters else ""
        )
        names = [f"vision tower: {vision.score}{clusters}"]
    for drop in schedule.drops:
        detail = f" ({drop.order}, {drop.head_reduction})" if drop.score == "k_norm" else ""
        merge = f", {drop.merge}" if drop.op == "merge" else ""
        names.append(f"before layer {drop.layer}: {drop.op}{merge} by {drop.score}{detail}")
    return names


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines of aligned columns; empty columns vanish."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(len(cell) for cell in column) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _inspect_bundle(path: Path) -> Inspection:
    from vitcop.export.bundle import Bundle

    bundle = Bundle.open(path, check_weights="none")
    manifest, shape = bundle.manifest, bundle.manifest.architecture
    schedule = inspect_schedule(bundle.schedule, num_visual=shape.num_visual)
    engines = sorted(
        item.relative_to(path).as_posix()
        for item in bundle.engines_folder.glob("*/*")
        if item.is_dir() and item.name[0] != "."
    )
    facts = {
        "kind": "bundle",
        "path": str(path),
        "model_id": manifest.model_id,
        "config_hash": manifest.config_hash,
        "family": manifest.family,
        "architecture": asdict(shape),
        "schedule": schedule.facts,
        "weights": {
            "mode": manifest.weights.mode,
            "folder": str(bundle.weights_folder),
            "bytes": sum(file.size for file in manifest.weights.files),
        },
        "files": {file.name: file.size for file in manifest.files},
        "engines": engines,
        "versions": manifest.versions,
    }
    rows = [
        ("model", f"{manifest.model_id} ({manifest.family}, config {manifest.config_hash[:12]})"),
        ("layers", str(shape.num_layers)),
        ("visual tokens", f"{shape.num_visual} an image of the encoder's own size"),
        ("computes in", shape.dtype),
        ("weights", f"{manifest.weights.mode}, {size_text(facts['weights']['bytes'])} in {bundle.weights_folder}"),
        ("engines", ", ".join(engines) or "none built"),
    ]
    files = table([("file", "size"), *((file.name, size_text(file.size)) for file in manifest.files)])
    return Inspection(facts=facts, text="\n".join([f"bundle {path}", *table(rows), "", schedule.text, "", *files]))


def _inspect_model(path: Path) -> Inspection:
    from typing import get_args

    from vitcop.calibrate.checkpoint import Checkpoint
    from vitcop.calibrate.schedule import DropScore
    from vitcop.pipeline.preflight import family_in

    checkpoint = Checkpoint.open(path)
    family = family_in(path)
    size = sum((path / shard).stat().st_size for shard in checkpoint.shards)
    scores = {"vision": [*family.vision_scores, "uniform", "random"], "drops": list(get_args(DropScore))}
    facts = {
        "kind": "model",
        "path": str(path),
        "model_id": checkpoint.model_id,
        "config_hash": checkpoint.config_hash,
        "family": family.name,
        "num_layers": family.num_layers,
        "visual_tokens": family.num_visual,
        "scores": scores,
        "weight_bytes": size,
        "shards": list(checkpoint.shards),
    }
    lines = [
        ("family", f"{family.name} ({', '.join(checkpoint.config.get('architectures', []))})"),
        ("config", checkpoint.config_hash[:12]),
        ("layers", str(family.num_layers)),
        ("visual tokens", f"{family.num_visual} an image of the encoder's own size"),
        ("vision scores", ", ".join(scores["vision"])),
        ("drop scores", ", ".join(scores["drops"])),
        (
            "weights",
            f"{size_text(size)} in {len(checkpoint.shards)} safetensors file{'s' * (len(checkpoint.shards) > 1)}",
        ),
    ]
    return Inspection(facts=facts, text="\n".join([f"model {checkpoint.model_id}", *table(lines)]))


def size_text(num_bytes: int) -> str:
    """Bytes for people."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def _layer_range(layers: list[int]) -> str:
    return str(layers[0]) if layers[0] == layers[1] else f"{layers[0]}–{layers[1]}"
