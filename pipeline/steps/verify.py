"""`verify`: prove with numbers that the built engine still answers like the PyTorch original."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitcop.calibrate.core.partial import write_text
from vitcop.calibrate.core.strict_json import read_object
from vitcop.pipeline.console import Console
from vitcop.pipeline.inspection import table
from vitcop.pipeline.preflight import open_bundle
from vitcop.pipeline.settings import EngineSettings, VerifySettings

if TYPE_CHECKING:
    from vitcop.calibrate.data.samples import Sample
    from vitcop.export.bundle import Bundle
    from vitcop.export.measure import GateResult, Verification
    from vitcop.export.runtimes import Target

_EXPORT_GATES = ("logit_deviation", "layer_deviation", "kept_differing", "answers_differing")
"""Gates on what the engine itself gets wrong."""


def verify(
    bundle: str | Path,
    data: str | Path,
    settings: VerifySettings | None = None,
    engine: EngineSettings | None = None,
    *,
    out: str | Path | None = None,
    console: Console | None = None,
) -> "Verification":
    """Hold three rungs against each other: the original, pruned PyTorch, the engine.

    Weights changed since the export are measured all the same, and fail a gate of their own; finding them reads all
    weights, one to four seconds a gigabyte.

    Args:
        bundle: the bundle's folder.
        data: evaluation samples.
        out: where verify.json is written, if anywhere; a failed gate is written too.

    Returns the verification; look at `passed`. Raises InputError for anything wrong with bundle, samples or gates.
    """
    from vitcop.calibrate.data.samples import load_samples
    from vitcop.export.measure.gates import Gates
    from vitcop.export.runtimes import open_target

    console, settings, engine = console or Console(quiet=True), settings or VerifySettings(), engine or EngineSettings()
    # Whether the weights are those of the export is for a gate to say.
    opened = open_bundle(bundle, console, "size")
    open_target(engine.target)
    earlier = read_object(settings.baseline) if settings.baseline is not None else None
    samples = load_samples(data, limit=settings.limit)

    from vitcop.export.measure import verify as measure

    with console.progress() as progress:
        found = measure(
            opened,
            samples,
            target=engine.target,
            options=engine.options,
            gates=Gates.of(settings.gates),
            metric=settings.metric,
            model_dir=engine.model,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            baseline=earlier,
            controls=settings.controls,
            seed=settings.seed,
            device=engine.device,
            attn=engine.attn,
            progress=progress,
        )
    if out is not None:
        write_text(Path(out), found.to_json())
    if any(gate.passed is False and gate.name in _EXPORT_GATES for gate in found.gates):
        _locate(opened, open_target(engine.target), samples[:1], console)
    return found


def _locate(bundle: "Bundle", target: "Target", samples: "Sequence[Sample]", console: Console) -> None:
    """Say where the engine parts from its graph, on targets that can look into their engines."""
    look = getattr(target, "locate_export_loss", None)
    if look is None:
        return
    from vitcop.calibrate.data.samples import batches
    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    _, batch = next(iter(batches(samples, load_processor(bundle.processor_folder), family_in(bundle.path), 1)))
    try:
        lines = look(bundle, batch) if batch.num_visual else ["the first sample has no image"]
    except Exception as error:  # A look for the cause may fail in any way; the verdict stands.
        lines = [f"not located: {error}"]
    for line in lines:
        console.note(f"export loss: {line}")


def gate_table(gates: "Sequence[GateResult]") -> str:
    """The gates as lines of text."""
    rows = [("gate", "measured", "limit", "")]
    for gate in gates:
        measured, limit = ("–" if value is None else f"{value:.4g}" for value in (gate.value, gate.limit))
        state = {True: "passed", False: "FAILED", None: "not held"}[gate.passed]
        rows.append((gate.name, measured, limit, state + (f" ({gate.note})" if gate.note else "")))
    return "\n".join(table(rows))


def read_verdict(path: Path) -> bool | None:
    """`passed` of a verify.json; None where there is none."""
    return bool(read_object(path).get("passed")) if path.is_file() else None
