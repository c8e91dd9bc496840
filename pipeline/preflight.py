"""Everything about a recipe's inputs that can be checked before a model runs: model folder, samples, schedule."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.calibrate.core.digests import known_digests, known_sha256, sha256_of_json
from vitcop.calibrate.core.progress import Progress
from vitcop.pipeline.console import Console
from vitcop.pipeline.recipe import Recipe
from vitcop.pipeline.settings import PRESETS
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample
    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.families import Family
    from vitcop.calibrate.schedule.schedule import Schedule
    from vitcop.export.bundle import Bundle
    from vitcop.export.bundle.reader import CheckWeights

SPLITS = ("calibration", "selection", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found.

    Args:
        checkpoint: the model folder.
        digests: of each split as far as its limit.
        weight_bytes: size of all weight shards.
        model_digest: of all files of the model folder.
        schedule_digest, cost_digest, baseline_digest: of these files where the recipe names them.
    """

    checkpoint: "Checkpoint"
    digests: dict[str, str]
    weight_bytes: int
    model_digest: str
    schedule_digest: str | None = None
    cost_digest: str | None = None
    baseline_digest: str | None = None


def check_recipe(recipe: Recipe, progress: Progress | None = None) -> Checked:
    """Open model folder, target and every sample of every split. Raises InputError for the first thing wrong."""
    from vitcop.calibrate.data.samples import load_samples, samples_digest
    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.schedule_check import check_schedule
    from vitcop.calibrate.schedule.latency import CostTable
    from vitcop.export.runtimes import open_target

    checkpoint = Checkpoint.open(recipe.model)
    check_target = getattr(open_target(recipe.build.target), "check", None)
    if check_target is not None:
        check_target(recipe.engine.options, copied_weights=recipe.export.copy_weights)
    if recipe.calibrate.schedule is not None:
        schedule = load_schedule(recipe.calibrate.schedule, checkpoint)
        check_schedule(schedule, checkpoint, family_in(checkpoint.path), source=str(recipe.calibrate.schedule))
    limits = {
        "calibration": recipe.calibrate.calibration_limit,
        "selection": recipe.calibrate.selection_limit,
        "evaluation": recipe.verify.limit,
    }
    files = {name: getattr(recipe.data, name) for name in SPLITS}
    splits = {name: load_samples(file, limit=limits[name]) for name, file in files.items() if file is not None}
    refuse_shared_samples(splits)
    source, baseline = recipe.calibrate.schedule, recipe.verify.baseline
    if baseline is not None and not baseline.is_file():
        raise InputError(f"{baseline}: no such baseline (an earlier verify.json)")
    cost = recipe.calibrate.cost
    if cost is not None:
        CostTable.load(cost).check_model(checkpoint.config_hash)
    model_files = sorted(path for path in checkpoint.path.iterdir() if path.is_file() and not path.name.startswith("."))
    names = [path.name for path in model_files]
    return Checked(
        checkpoint=checkpoint,
        digests={name: samples_digest(samples) for name, samples in splits.items()},
        weight_bytes=sum((checkpoint.path / shard).stat().st_size for shard in checkpoint.shards),
        model_digest=sha256_of_json(dict(zip(names, known_digests(model_files, progress), strict=True))),
        schedule_digest=known_sha256(source) if isinstance(source, Path) else None,
        cost_digest=known_sha256(cost) if cost is not None else None,
        baseline_digest=known_sha256(baseline) if baseline is not None else None,
    )


def refuse_shared_samples(splits: "dict[str, list[Sample]]") -> None:
    """Raises InputError where two splits share a question (images and prompt): it would flatter the verdict."""
    owner: dict[str, tuple[str, str]] = {}
    for name, samples in splits.items():
        for sample in samples:
            other, identity = owner.setdefault(sample.content_digest, (name, sample.id))
            if other != name:
                raise InputError(
                    f"data.{name}: sample {sample.id} is also in data.{other} (as {identity}); splits may share none"
                )


def load_schedule(source: str | Path, checkpoint: "Checkpoint") -> "Schedule":
    """A schedule from a file, or that of a preset name for the model. In the vision tower a preset ranks by the
    attention of the class token, or of the mean query where there is none.

    Whether a file's schedule belongs to the model is not checked here (`schedule_check.check_schedule`). Raises
    InputError where there is no such file or preset, or the model is too shallow for the preset.
    """
    from vitcop.calibrate.schedule.schedule import Schedule

    if source in PRESETS:
        from vitcop.calibrate.schedule.presets import preset

        family = family_in(checkpoint.path)
        return replace(
            preset(str(source), family.num_layers, family.num_visual, vision_score=family.vision_scores[0]),
            model_id=checkpoint.model_id,
            config_hash=checkpoint.config_hash,
        )
    if not Path(source).is_file():
        raise InputError(f"{source}: no such schedule file, and not a preset ({', '.join(PRESETS)})")
    return Schedule.load(Path(source))


def model_shape(checkpoint: "Checkpoint") -> tuple[int, int]:
    """(decoder layers, visual tokens of one image of the encoder's own size), read from the config alone."""
    family = family_in(checkpoint.path)
    return family.num_layers, family.num_visual


def open_bundle(path: str | Path, console: Console, check_weights: "CheckWeights" = "known") -> "Bundle":
    """`Bundle.open`; the first time that a machine sees the weights it reads them, with progress."""
    from vitcop.export.bundle import Bundle

    with console.progress() as progress:
        return Bundle.open(Path(path), check_weights=check_weights, progress=progress)


def family_in(folder: Path) -> "Family":
    """The model family of a model folder or bundle, from its config.json."""
    from vitcop.calibrate.models.families import family_of
    from vitcop.calibrate.models.loading import load_config

    return family_of(load_config(folder))
