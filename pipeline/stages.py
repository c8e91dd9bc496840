"""The stages of a run: what each reads, what each writes, and what decides whether it has to run again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.strict_json import plain
from vitcop.pipeline.console import Console
from vitcop.pipeline.preflight import Checked
from vitcop.pipeline.recipe import Recipe, sections_of
from vitcop.pipeline.settings import SearchSettings
from vitcop.pipeline.versions import versions_of

UNPRUNED = ".vitcop/unpruned"
"""The bundle of the same model without dropping, which `bench` compares with."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What a running stage gets. It writes outputs to `target(name)`; the caller renames them once all are whole."""

    recipe: Recipe
    checked: Checked
    out: Path
    console: Console
    target: Callable[[str], Path]

    @property
    def store(self) -> Path:
        """A folder that survives interruptions, for stages that can take up their work again."""
        return self.out / ".vitcop"


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file or folder that a stage makes, relative to OUT.

    Args:
        path: its name.
        in_place: the stage itself makes it appear whole or not at all, so it gets the final path to write to.
        without: entries of a folder that other stages own.
        optional: may be absent after the stage has run.
    """

    path: str
    in_place: bool = False
    without: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Args:
        outputs: what it makes.
        settings: recipe keys in dotted form, a section or a value, whose change makes it run again.
        after: outputs of earlier stages that it reads.
        inputs: digests of inputs from outside, by a name for people.
        versions: of what shapes its output.
        run: does the work.
        wanted: False leaves the stage out.
    """

    name: str
    outputs: tuple[Output, ...]
    settings: tuple[str, ...]
    after: tuple[str, ...] = ()
    inputs: Callable[[Recipe, Checked], dict[str, str]] = lambda recipe, checked: {}
    versions: Callable[[Recipe], dict[str, str]] = field(default=lambda recipe: versions_of())
    run: Callable[[StageRun], None]
    wanted: Callable[[Recipe], bool] = lambda recipe: True


def recipe_slice(recipe: Recipe, keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of a recipe under some keys, flat, by dotted key. Files are inputs, told by digest."""
    data, flat = asdict(recipe), dict[str, Any]()
    for key in keys:
        value: Any = data
        for part in key.split("."):
            value = value[part]
        flat |= _flatten(key, value)
    return plain(flat)


def _flatten(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: "file" if isinstance(value, Path) else value}
    return {name: item for part, inner in value.items() for name, item in _flatten(f"{key}.{part}", inner).items()}


def _model(checked: Checked) -> dict[str, str]:
    return {"model": checked.model_digest}


def _calibrate_inputs(recipe: Recipe, checked: Checked) -> dict[str, str]:
    found = _model(checked)
    if recipe.calibrate.schedule is None:
        found |= {f"{name} samples": checked.digests[name] for name in ("calibration", "selection")}
        return found | ({"cost table": checked.cost_digest} if checked.cost_digest else {})
    return found | ({"schedule file": checked.schedule_digest} if checked.schedule_digest else {})


def _export_inputs(recipe: Recipe, checked: Checked) -> dict[str, str]:
    # A bundle that refers to its weights holds their folder: a moved model needs a new one.
    return _model(checked) | ({} if recipe.export.copy_weights else _model_folder(checked))


def _reference_inputs(recipe: Recipe, checked: Checked) -> dict[str, str]:
    return _model(checked) | _model_folder(checked)


def _model_folder(checked: Checked) -> dict[str, str]:
    return {"model folder": str(checked.checkpoint.path.resolve())}


def _verify_inputs(recipe: Recipe, checked: Checked) -> dict[str, str]:
    found = {**_model(checked), "evaluation samples": checked.digests["evaluation"]}
    return found | ({"baseline": checked.baseline_digest} if checked.baseline_digest else {})


def _run_calibrate(stage: StageRun) -> None:
    from vitcop.calibrate.core.partial import write_text
    from vitcop.pipeline.preflight import load_schedule
    from vitcop.pipeline.steps.calibrate import open_search

    recipe, section = stage.recipe, stage.recipe.calibrate
    if section.schedule is not None:
        write_text(stage.target("schedule.json"), load_schedule(section.schedule, stage.checked.checkpoint).to_json())
        return
    calibration, selection = recipe.data.calibration, recipe.data.selection
    assert calibration is not None and selection is not None, "the recipe was checked"
    search = open_search(recipe.model, calibration, selection, section, console=stage.console)
    search.run(
        schedule_out=stage.target("schedule.json"),
        calibration_out=stage.target("calibration.json"),
        store=stage.store / "calibrate",
        console=stage.console,
    )


def _run_export(stage: StageRun) -> None:
    from vitcop.pipeline.steps.export import export

    export(
        stage.recipe.model,
        stage.out / "schedule.json",
        stage.target("bundle"),
        copy_weights=stage.recipe.export.copy_weights,
        console=stage.console,
    )


def _run_build(stage: StageRun) -> None:
    from vitcop.pipeline.steps.build import build, write_result

    engine = stage.recipe.engine
    built = build(stage.out / "bundle", target=engine.target, options=engine.options, console=stage.console)
    write_result(built, stage.target("build.json"))


def _run_verify(stage: StageRun) -> None:
    from vitcop.pipeline.steps.verify import verify

    recipe, out = stage.recipe, stage.target("verify.json")
    verify(stage.out / "bundle", recipe.data.evaluation, recipe.verify, recipe.engine, out=out, console=stage.console)


def _run_reference(stage: StageRun) -> None:
    from vitcop.pipeline.steps.export import export

    export(stage.recipe.model, "none", stage.target(UNPRUNED), console=stage.console)


def _run_bench(stage: StageRun) -> None:
    from vitcop.pipeline.steps.bench import bench

    recipe = stage.recipe
    bench(
        stage.out / "bundle",
        recipe.data.evaluation,
        recipe.bench,
        recipe.engine,
        against=stage.out / UNPRUNED if recipe.bench.unpruned else None,
        out=stage.target("bench.json"),
        console=stage.console,
    )


def _run_report(stage: StageRun) -> None:
    from vitcop.pipeline.steps.report import report

    report(
        stage.out,
        stage.recipe.report,
        data=stage.recipe.data.evaluation,
        out=stage.target("report.html"),
    )


def _torch_versions(recipe: Recipe) -> dict[str, str]:
    return versions_of("torch", "transformers", "tokenizers", "pillow", "numpy")


def _export_versions(recipe: Recipe) -> dict[str, str]:
    return versions_of("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


def _target_versions(recipe: Recipe) -> dict[str, str]:
    return _torch_versions(recipe) | _engine_versions(recipe)


def _engine_versions(recipe: Recipe) -> dict[str, str]:
    from vitcop.export.runtimes import open_target

    return versions_of() | open_target(recipe.build.target).versions()


def _bench_versions(recipe: Recipe) -> dict[str, str]:
    # Times are of one machine: another CPU, or another number of cores to use, means measuring again.
    from vitcop.export.machine import machine_facts

    facts = machine_facts()
    return _target_versions(recipe) | {name: str(facts[name]) for name in ("cpu", "cores")}


STAGES: tuple[Stage, ...] = (
    Stage(
        name="calibrate",
        outputs=(Output(path="schedule.json"), Output(path="calibration.json", optional=True)),
        # Who does the work makes no difference to what is found.
        settings=(
            *(f"calibrate.{name}" for name in sections_of(SearchSettings) if name not in ("executor", "workers")),
            "device",
            "attn",
        ),
        inputs=_calibrate_inputs,
        versions=_torch_versions,
        run=_run_calibrate,
    ),
    Stage(
        name="export",
        outputs=(Output(path="bundle", in_place=True, without=("engines",)),),
        settings=("export",),
        after=("schedule.json",),
        inputs=_export_inputs,
        versions=_export_versions,
        run=_run_export,
    ),
    Stage(
        name="build",
        outputs=(Output(path="build.json"), Output(path="bundle/engines", in_place=True, optional=True)),
        settings=("build", "device"),
        after=("bundle",),
        versions=_engine_versions,
        run=_run_build,
    ),
    Stage(
        name="verify",
        outputs=(Output(path="verify.json"),),
        settings=("verify", "device", "attn"),
        after=("bundle", "build.json"),
        inputs=_verify_inputs,
        versions=_target_versions,
        run=_run_verify,
    ),
    Stage(
        name="reference",
        outputs=(Output(path=UNPRUNED, in_place=True, without=("engines",)),),
        settings=(),
        inputs=_reference_inputs,
        versions=_export_versions,
        run=_run_reference,
        wanted=lambda recipe: recipe.bench.enabled and recipe.bench.unpruned,
    ),
    Stage(
        name="bench",
        outputs=(Output(path="bench.json"),),
        settings=("bench", "device", "attn"),
        after=("bundle", "build.json", UNPRUNED),
        inputs=lambda recipe, checked: {"evaluation samples": checked.digests["evaluation"]},
        versions=_bench_versions,
        run=_run_bench,
        wanted=lambda recipe: recipe.bench.enabled,
    ),
    Stage(
        name="report",
        outputs=(Output(path="report.html"),),
        settings=("report",),
        after=("schedule.json", "calibration.json", "bundle", "verify.json", "bench.json"),
        inputs=lambda recipe, checked: {"evaluation samples": checked.digests["evaluation"]},
        run=_run_report,
    ),
)
