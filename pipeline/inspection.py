"""`inspect`: what a bundle, a model folder or a schedule file is, without loading weights."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.schedule.schedule import Schedule


MAX_SIDE = 10_000
"""Greatest side of an image whose tokens are counted."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Facts for machines, text for people."""

    facts: dict[str, Any]
    text: str


def inspect(path: str | Path, *, image_size: str | None = None) -> Inspection:
    """Tell a bundle, a model folder and a schedule file apart and describe it. Raises InputError for anything else.

    Args:
        image_size: "640x480" (width, height) of an image whose visual tokens are counted.
    """
    path = Path(path)
    size = None if image_size is None else parse_size(image_size)
    if path.is_file():
        from vitcop.calibrate.schedule.schedule import Schedule

        if size is not None:
            raise InputError(f"{path}: a schedule knows no image sizes; give a model folder with --image-size")
        return inspect_schedule(Schedule.load(path))
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    for folder in (path, path / "bundle"):
        if (folder / "manifest.json").is_file():
            return _inspect_bundle(folder, size)
    return _inspect_model(path, size)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of "640x480". Raises InputError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= MAX_SIDE for part in parts):
        raise InputError(f"--image-size {text!r}: expected WIDTHxHEIGHT in pixels, such as 640x480")
    return int(parts[0]), int(parts[1])


def visual_tokens_of(folder: Path, size: tuple[int, int]) -> int:
    """Visual tokens of one image of (width, height) pixels, as the folder's own processor makes them."""
    from PIL import Image

    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    processor, family = load_processor(folder), family_in(folder)
    word, _ = family.placeholders(processor)
    return family.prepare(processor, [word], [[Image.new("RGB", size)]]).num_visual


def inspect_schedule(
    schedule: "Schedule", *, num_visual: int | None = None, model: str | Path | None = None
) -> Inspection:
    """A schedule as a table; in tokens where the number of visual tokens is known, else in per cent of the original."""
    if model is not None:
        from vitcop.calibrate.models.checkpoint import Checkpoint
        from vitcop.pipeline.preflight import model_shape

        num_visual = model_shape(Checkpoint.open(model))[1]
    # Without a number of tokens a large one makes the rounding of keep counts vanish from the ratios.
    count = num_visual or 1_000_000
    groups: list[dict[str, Any]] = [
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


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines of aligned columns; empty columns vanish."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(len(cell) for cell in column) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _inspect_bundle(path: Path, size: tuple[int, int] | None) -> Inspection:
    from vitcop.export.bundle import Bundle

    bundle = Bundle.open(path, check_weights="none")
    manifest, shape = bundle.manifest, bundle.manifest.architecture
    counted = None if size is None else visual_tokens_of(path, size)
    schedule = inspect_schedule(bundle.schedule, num_visual=counted or shape.num_visual)
    engines = sorted(
        item.relative_to(path).as_posix()
        for item in bundle.engines_folder.glob("*/*")
        if item.is_dir() and item.name[0] != "."
    )
    facts: dict[str, Any] = {
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
        ("visual tokens", _counted(shape.num_visual, size, counted)),
        ("computes in", shape.dtype),
        ("weights", f"{manifest.weights.mode}, {size_text(facts['weights']['bytes'])} in {bundle.weights_folder}"),
        ("engines", ", ".join(engines) or "none built"),
    ]
    files = table([("file", "size"), *((file.name, size_text(file.size)) for file in manifest.files)])
    return Inspection(facts=facts, text="\n".join([f"bundle {path}", *table(rows), "", schedule.text, "", *files]))


def _inspect_model(path: Path, size: tuple[int, int] | None) -> Inspection:
    from typing import get_args

    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.schedule.schedule import DropScore
    from vitcop.pipeline.preflight import family_in

    checkpoint = Checkpoint.open(path)
    family = family_in(path)
    counted = None if size is None else visual_tokens_of(path, size)
    num_bytes = sum((path / shard).stat().st_size for shard in checkpoint.shards)
    scores = {"vision": [*family.vision_scores, "uniform", "random"], "drops": list(get_args(DropScore))}
    facts = {
        "kind": "model",
        "path": str(path),
        "model_id": checkpoint.model_id,
        "config_hash": checkpoint.config_hash,
        "family": family.name,
        "num_layers": family.num_layers,
        "visual_tokens": counted or family.num_visual,
        "scores": scores,
        "weight_bytes": num_bytes,
        "shards": list(checkpoint.shards),
    }
    lines = [
        ("family", f"{family.name} ({', '.join(checkpoint.config.get('architectures', []))})"),
        ("config", checkpoint.config_hash[:12]),
        ("layers", str(family.num_layers)),
        ("visual tokens", _counted(family.num_visual, size, counted)),
        ("vision scores", ", ".join(scores["vision"])),
        ("drop scores", ", ".join(scores["drops"])),
        (
            "weights",
            f"{size_text(num_bytes)} in {len(checkpoint.shards)} safetensors file{'s' * (len(checkpoint.shards) > 1)}",
        ),
    ]
    return Inspection(facts=facts, text="\n".join([f"model {checkpoint.model_id}", *table(lines)]))


def _counted(reference: int, size: tuple[int, int] | None, counted: int | None) -> str:
    if size is None:
        return f"{reference} an image of the encoder's own size"
    return f"{counted} an image of {size[0]} × {size[1]} pixels"


def size_text(num_bytes: int) -> str:
    """Bytes for people."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def _layer_range(layers: list[int]) -> str:
    return str(layers[0]) if layers[0] == layers[1] else f"{layers[0]}–{layers[1]}"
