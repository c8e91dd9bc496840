"""`run`: the whole road of a recipe, reusing what still holds."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.calibrate.core.digests import known_path_digest
from vitcop.calibrate.core.partial import discard, partial_path, publish
from vitcop.pipeline.console import Console
from vitcop.pipeline.preflight import Checked, check_recipe
from vitcop.pipeline.recipe import Recipe, load_recipe
from vitcop.pipeline.records import Ingredients, Record, why_stale
from vitcop.pipeline.stages import STAGES, Stage, StageRun, recipe_slice
from vitcop.pipeline.steps.verify import read_verdict
from vitcop.pipeline.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Step:
    """What became, or would become, of one stage: `action` is "run", "reuse" or "skip"."""

    stage: str
    action: str
    reason: str
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did. `passed` is the verdict of verify.json; None where there is none (a dry run)."""

    out: Path
    steps: tuple[Step, ...]
    passed: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        steps = [{key: value for key, value in vars(step).items() if value is not None} for step in self.steps]
        return {"out": str(self.out), "passed": self.passed, "stages": steps}


def run(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    dry_run: bool = False,
    console: Console | None = None,
    stages: tuple[Stage, ...] | None = None,
) -> RunResult:
    """Run calibrate, export, build, verify, bench and report; stages whose inputs and outputs still hold are reused.

    Args:
        recipe: a recipe file, or a recipe.
        out: the output folder; new, empty, or of an earlier run.
        dry_run: only say what would run and why; writes nothing.
        console: where progress goes; silent by default.
        stages: another stage table.

    Returns what was done. A failed gate is no exception here: look at `passed`.

    Raises:
        InputError: recipe, model folder, a sample or the output folder cannot be used; before any model has run.
        MissingError: a stage needs something that this machine lacks.
    """
    console, stages = console or Console(quiet=True), stages or STAGES
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    workspace = Workspace(out)
    workspace.check()
    with console.progress() as progress:
        checked = check_recipe(recipe, progress)
    if dry_run:
        return RunResult(out=workspace.out, steps=tuple(_plan(recipe, checked, workspace, stages)))
    copies = int(recipe.export.copy_weights) + int(recipe.build.target != "onnxruntime")
    workspace.check_space(copies * checked.weight_bytes)
    with workspace.locked() as leftovers:
        if leftovers:
            console.note(f"removed what an interrupted run left: {', '.join(leftovers)}")
        steps = [_advance(stage, recipe, checked, workspace, stages, console) for stage in stages]
        return RunResult(out=workspace.out, steps=tuple(steps), passed=read_verdict(workspace.out / "verify.json"))


def _plan(recipe: Recipe, checked: Checked, workspace: Workspace, stages: tuple[Stage, ...]) -> list[Step]:
    """What `run` would do. What follows a stage that runs is said to run too: its inputs may change."""
    steps: list[Step] = []
    remade: dict[str, str] = {}
    for stage in stages:
        if not stage.wanted(recipe):
            steps.append(Step(stage=stage.name, action="skip", reason="left out by the recipe"))
            continue
        fresh = next((name for name in stage.after if name in remade), None)
        if fresh is not None:
            reason: str | None = f"{fresh} is made again by {remade[fresh]}"
        else:
            reason = _why(stage, recipe, checked, workspace, stages)
        if reason is not None:
            remade |= {output.path: stage.name for output in stage.outputs}
        steps.append(Step(stage=stage.name, action="run" if reason else "reuse", reason=reason or "nothing changed"))
    return steps


def _advance(
    stage: Stage,
    recipe: Recipe,
    checked: Checked,
    workspace: Workspace,
    stages: tuple[Stage, ...],
    console: Console,
) -> Step:
    """Reuse or run one stage."""
    out, record_path = workspace.out, _record_path(workspace, stage)
    if not stage.wanted(recipe):
        record_path.unlink(missing_ok=True)
        for output in stage.outputs:
            discard(out / output.path)
        console.note(f"{stage.name}: left out by the recipe")
        return Step(stage=stage.name, action="skip", reason="left out by the recipe")
    reason = _why(stage, recipe, checked, workspace, stages)
    if reason is None:
        console.note(f"{stage.name}: reused, nothing changed")
        return Step(stage=stage.name, action="reuse", reason="nothing changed")
    console.note(f"{stage.name}: running ({reason})")
    started = time.monotonic()
    ingredients = _ingredients(stage, recipe, checked, workspace, stages)
    in_place = {output.path for output in stage.outputs if output.in_place}
    made = [output for output in stage.outputs if not output.in_place]

    def target(name: str) -> Path:
        assert name in {output.path for output in stage.outputs}, f"stage {stage.name} has no output {name}"
        return out / name if name in in_place else partial_path(out / name)

    try:
        stage.run(StageRun(recipe=recipe, checked=checked, out=out, console=console, target=target))
        record_path.unlink(missing_ok=True)
        for output in made:
            if partial_path(out / output.path).exists():
                publish(out / output.path)
            else:
                assert output.optional, f"stage {stage.name} did not write {output.path}"
                discard(out / output.path)
    finally:
        for output in made:
            discard(partial_path(out / output.path))
    outputs = {name: digest for name, digest in _outputs(stage, workspace).items() if digest is not None}
    Record(key=ingredients.key, ingredients=ingredients.as_dict(), outputs=outputs).save(record_path)
    seconds = time.monotonic() - started
    console.note(f"{stage.name}: done in {seconds:.1f} s")
    return Step(stage=stage.name, action="run", reason=reason, seconds=round(seconds, 3))


def _why(stage: Stage, recipe: Recipe, checked: Checked, workspace: Workspace, stages: tuple[Stage, ...]) -> str | None:
    record = Record.load(_record_path(workspace, stage))
    ingredients = _ingredients(stage, recipe, checked, workspace, stages)
    return why_stale(record, ingredients, _outputs(stage, workspace))


def _ingredients(
    stage: Stage, recipe: Recipe, checked: Checked, workspace: Workspace, stages: tuple[Stage, ...]
) -> Ingredients:
    # The same folder has one digest, whichever stage looks at it.
    without = {output.path: output.without for other in stages for output in other.outputs}
    found = {name: known_path_digest(workspace.out / name, without=without.get(name, ())) for name in stage.after}
    return Ingredients(
        recipe=recipe_slice(recipe, stage.settings),
        inputs=stage.inputs(recipe, checked) | {name: digest for name, digest in found.items() if digest is not None},
        versions=stage.versions(recipe),
    )


def _outputs(stage: Stage, workspace: Workspace) -> dict[str, str | None]:
    return {
        output.path: known_path_digest(workspace.out / output.path, without=output.without) for output in stage.outputs
    }


def _record_path(workspace: Workspace, stage: Stage) -> Path:
    return workspace.private / "stages" / f"{stage.name}.json"
