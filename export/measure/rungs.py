"""The rungs of a verification: PyTorch original, PyTorch under the schedule, the engine, controls at equal budget."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vitcop.calibrate.models.families import Family
from vitcop.calibrate.run.runner import Runner
from vitcop.export.bundle import Bundle
from vitcop.export.runtimes import open_target
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from vitcop.calibrate.models.checkpoint import Checkpoint

ORIGINAL, PRUNED, ENGINE = "original", "pruned", "engine"
CONTROLS: Final = ("random", "uniform")


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """Runners by rung name, and what prepares their prompts."""

    runners: dict[str, Runner]
    processor: Any
    family: Family
    eos_ids: Collection[int]

    def text(self, tokens: list[int]) -> str:
        """An answer as text, special tokens left out."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def open_rungs(
    bundle: Bundle,
    *,
    target: str,
    options: Mapping[str, Any] | None = None,
    model_dir: Path | None = None,
    controls: bool = True,
    device: str = "cpu",
    attn: str = "sdpa",
    seed: int = 0,
) -> Rungs:
    """Load PyTorch model and engine.

    PyTorch reads the checkpoint, never the bundle's copy of the weights: the engine must be held against weights that
    it did not read itself wherever the two may differ. Raises InputError where the checkpoint is not the bundle's
    model.
    """
    # The engine first: it fails fast, and it loads no torch.
    engine = open_target(target).runner(bundle, options)

    from vitcop.calibrate.models.loading import load_model, load_processor
    from vitcop.calibrate.run.scheduled import OriginalRunner, ScheduledRunner
    from vitcop.calibrate.schedule.presets import controls as control_schedule

    manifest = bundle.manifest
    checkpoint = open_original(bundle, model_dir)
    model, _, family = load_model(checkpoint, device=device, dtype=engine_dtype(engine, bundle), attn=attn)
    schedule = bundle.schedule
    runners: dict[str, Runner] = {
        ORIGINAL: OriginalRunner(model, family),
        PRUNED: ScheduledRunner(model, family, schedule, name=PRUNED),
        ENGINE: engine,
    }
    if controls and not schedule.is_empty:
        for name in CONTROLS:
            control = control_schedule(schedule, name, seed)
            runners[name] = ScheduledRunner(model, family, control, name=name)
    return Rungs(
        runners=runners,
        processor=load_processor(bundle.processor_folder),
        family=family,
        eos_ids=manifest.architecture.eos_token_ids,
    )


def engine_dtype(engine: Any, bundle: Bundle) -> str:
    """The float type that an engine computes in: the bundle's, where it was not built in another. PyTorch is run in the
    same, so that export loss is an error of the engine and not the price of a shorter type."""
    return getattr(engine, "dtype", bundle.manifest.architecture.dtype)


def open_original(bundle: Bundle, model_dir: Path | None) -> "Checkpoint":
    """The checkpoint that PyTorch reads. Raises InputError where it is not the bundle's model."""
    from vitcop.calibrate.models.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(original_folder(bundle, model_dir))
    if checkpoint.config_hash != bundle.manifest.config_hash:
        raise InputError(
            f"{checkpoint.path}: not the model of this bundle (its config differs); give the one exported with --model"
        )
    return checkpoint


def original_folder(bundle: Bundle, model_dir: Path | None) -> Path:
    """The checkpoint folder that PyTorch reads. Raises InputError where it has to be named."""
    if model_dir is not None:
        return Path(model_dir)
    if bundle.manifest.weights.mode == "copied":
        raise InputError(f"{bundle.path}: holds a copy of the weights; give the original model folder with --model")
    if not bundle.weights_folder.is_dir():
        raise InputError(f"{bundle.weights_folder}: the model folder is gone; give it with --model")
    return bundle.weights_folder
