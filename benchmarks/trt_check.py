"""Everything about TensorRT engines that only a machine with TensorRT can prove, in one run: `make trt-check`.

Exports the embedded model, builds its engines in several ways, and holds each against PyTorch in the same float type:
kept tokens (equal up to near-ties), keys and values of each layer, logits of the prompt and of a few forced steps.
The tolerance of a half-precision engine is twice what PyTorch itself loses by that type on the same prompts. Checks the
plugin layers, the form of caches, streamed weights, the share of time in the plugins, prompts of text alone, the reuse
of engines, the dry run, and `generate`. A line for each step; trt_check.json in $OUT, or else in benchmarks/results.
Exit status 0, 1 where a step failed, 4 where steps failed for nothing but what is missing here.

`--target onnxruntime` runs the same comparisons over ONNX Runtime (fp32, on the CPU), to try the check itself.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vitcop.plugins.errors import GateError, MissingError, VitcopError

HERE = Path(__file__).parent
OUT = Path(os.environ.get("OUT", HERE / "results"))
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"
SCHEDULES = ("paper-1/3", "none")
STEPS, ROWS = 6, 3
FP32_LIMIT = 1e-3
"""Greatest deviation of fp32 logits. ONNX Runtime's gate is 1e-4; TensorRT's tactics add in other orders."""
TIMES_TORCH = 2.0
NEAR_TIES = 0.1
"""Share of prompts whose kept tokens may differ by near-ties; such prompts leave the comparison of values."""

LIMITS = {"max_batch": ROWS, "opt_batch": 1, "max_text": 64, "max_new_tokens": 16}
PRECISE = {
    "fp32, caches in place": {"precision": "fp32"},
    "fp32, plain caches": {"precision": "fp32", "kv_cache": "plain"},
    "fp16, caches in place": {"precision": "fp16"},
    "bf16, caches in place": {"precision": "bf16"},
    "fp16, no CUDA graph": {"precision": "fp16", "cuda_graph": False},
}
VARIANTS = {
    "stripped and refitted": {"strip": True, "refit": "identical", "layer_info": True},
    "stripped, refitted with any weights": {"strip": True, "refit": "any"},
    "version compatible, plugin inside": {"version_compatible": True, "serialize_plugin": True},
    "hardware compatible": {"hardware_compatibility": "ampere_plus", "profiling": "names"},
    "same compute capability": {"hardware_compatibility": "same_compute_capability"},
    "streamed weights": {"weight_streaming": True, "weight_streaming_budget": 0},
    "prompts of text alone": {"min_images": 0},
    "timing cache, small workspace, level 1": {"timing_cache": "timing.cache", "workspace": 1, "optimization_level": 1},
}


class Record:
    """Runs steps, says a line for each, and keeps the outcome of each on disk before the next begins."""

    def __init__(self, target: str) -> None:
        self.result: dict[str, Any] = {"target": target, "steps": {}}

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> bool:
        begun = time.monotonic()
        try:
            outcome = {"passed": True, **work()}
        except Exception as error:  # One failed step must not keep the others from running.
            outcome = {"passed": False, "error": type(error).__name__, "reason": " ".join(str(error).split())[:500]}
        outcome["seconds"] = round(time.monotonic() - begun, 2)
        self.result["steps"][name] = outcome
        self.save()
        told = outcome.get("line", "") if outcome["passed"] else f"{outcome['error']}: {outcome['reason']}"
        print(
            f"{'ok    ' if outcome['passed'] else 'FAILED'} {name} ({outcome['seconds']} s) {told}".rstrip(), flush=True
        )
        return outcome["passed"]

    def status(self) -> int:
        """0, 1 where a step failed, 4 where all that failed did so for what is missing on this machine."""
        failed = [outcome["error"] for outcome in self.result["steps"].values() if not outcome["passed"]]
        if not failed:
            return 0
        return MissingError.exit_status if set(failed) == {MissingError.__name__} else 1

    def save(self) -> None:
        (OUT / "trt_check.json").write_text(json.dumps(self.result, indent=2, sort_keys=True) + "\n")


class Reference:
    """PyTorch under the schedule, in each float type, on the same prompts."""

    def __init__(self, bundle: Any, batches: list[Any], device: str, model: Path = EXAMPLE / "model") -> None:
        self.bundle, self.batches, self.device, self.model = bundle, batches, device, model
        self._runs: dict[str, list[dict[str, Any]]] = {}

    def runs(self, dtype: str) -> list[dict[str, Any]]:
        """For each batch: the prefill, and the logits [B,T,vocab] of steps forced to the tokens of fp32."""
        if dtype != "float32":
            self.runs("float32")  # whose tokens all others follow
        if dtype not in self._runs:
            import torch

            from vitcop.calibrate.models.checkpoint import Checkpoint
            from vitcop.calibrate.models.loading import load_model
            from vitcop.calibrate.run.scheduled import ScheduledRunner

            torch.backends.cudnn.allow_tf32 = False  # It is on for convolutions, and this is the reference.
            model, _, family = load_model(Checkpoint.open(self.model), device=self.device, dtype=dtype)
            runner = ScheduledRunner(model, family, self.bundle.schedule)
            self._runs[dtype] = [self.follow(runner, batch, index) for index, batch in enumerate(self.batches)]
        return self._runs[dtype]

    def follow(self, runner: Any, batch: Any, index: int) -> dict[str, Any]:
        """One runner through one batch, along the tokens that PyTorch in fp32 chose."""
        from vitcop.calibrate.run.generation import continue_forced, continue_free

        done = runner.prefill(batch)
        if "float32" not in self._runs and not hasattr(runner, "kv"):
            made = continue_free(runner, done, max_new_tokens=STEPS, eos_ids=(), keep_logits=True)
            return {"prefill": done, "tokens": made.tokens, "logits": made.logits}
        tokens = self.runs("float32")[index]["tokens"]
        return {"prefill": done, "tokens": tokens, "logits": continue_forced(runner, done, tokens)}

    def loss_of(self, dtype: str) -> float:
        """What PyTorch's own logits lose by a float type: greatest deviation from fp32 where the same was kept."""
        from vitcop.export.measure.near_ties import compare_stages

        worst = 0.0
        for full, half in zip(self.runs("float32"), self.runs(dtype), strict=True):
            for row in range(len(full["logits"])):
                if set(compare_stages(full["prefill"], half["prefill"], row)) <= {"same"}:
                    worst = max(worst, float(np.abs(full["logits"][row] - half["logits"][row]).max()))
        return worst


def compare(reference: Reference, runner: Any, dtype: str) -> dict[str, Any]:
    """An engine against PyTorch in the same float type. Raises GateError that says what is too far apart."""
    from vitcop.export.bundle.contract import group_of_layer
    from vitcop.export.measure.gates import LAYER_LIMITS
    from vitcop.export.measure.layers import layer_deviations, layer_magnitudes, torch_kv
    from vitcop.export.measure.near_ties import compare_stages

    worst, layers, near_ties, rows = 0.0, 0.0, 0, 0
    for index, (batch, ours) in enumerate(zip(reference.batches, reference.runs(dtype), strict=True)):
        theirs = reference.follow(runner, batch, index)
        padding, sound = (batch.attention_mask == 0).sum(axis=1), []
        for row in range(len(batch.input_ids)):
            verdicts = compare_stages(ours["prefill"], theirs["prefill"], row, dtype)
            rows += 1
            if "different" in verdicts:
                raise GateError(f"prompt {index}.{row} keeps other tokens than PyTorch in {dtype}: {verdicts}")
            if "near_tie" in verdicts:
                near_ties += 1
                continue
            sound.append(row)
            worst = max(worst, float(np.abs(ours["logits"][row] - theirs["logits"][row]).max()))
        if sound:
            lengths = [ours["prefill"].kv_lengths[g] for g in group_of_layer(reference.bundle.schedule)]
            own, found = torch_kv(ours["prefill"].state), runner.kv(theirs["prefill"].state)
            gaps = layer_deviations(own, found, lengths, padding, sound)
            layers = max(layers, float((gaps / layer_magnitudes(own, lengths, padding, sound)).max()))
    loss = reference.loss_of(dtype) if dtype != "float32" else 0.0
    limit = max(FP32_LIMIT, TIMES_TORCH * loss)
    for what, value, most in (
        ("logits deviate by", worst, limit),
        ("a layer's keys and values deviate by a share of", layers, LAYER_LIMITS[dtype]),
        ("near-ties, as a share of the prompts, are", near_ties / rows, NEAR_TIES),
    ):
        if not value <= most:
            raise GateError(f"{what} {value:.3g}, at most {most:.3g} is allowed in {dtype}")
    return {
        "logit_deviation": worst,
        "logit_limit": limit,
        "torch_own_loss": loss,
        "layer_deviation": layers,
        "near_ties": near_ties,
        "prompts": rows,
        "line": f"logits {worst:.2g} ≤ {limit:.2g}, layers {layers:.2g}, {near_ties} near-ties of {rows}",
    }


def export(schedule: str, folder: Path) -> Any:
    from vitcop.export.bundle import Bundle
    from vitcop.pipeline import export as export_step

    out = folder / schedule.replace("/", "-")
    export_step(EXAMPLE / "model", schedule=schedule, out=out, copy_weights=True)
    return Bundle.open(out)


def question(sample: Any) -> str:
    """The text of a sample."""
    return " ".join(part["text"] for part in sample.messages[0]["content"] if part["type"] == "text").strip()


def prompts(bundle: Any, folder: Path, *, text_alone: bool = False) -> list[Any]:
    """Batches of `ROWS` and of one, of questions of different lengths; or a few of the questions without images."""
    from vitcop.calibrate.data.samples import batches, load_samples
    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    data = folder / "data"
    if not data.is_dir():
        command = [sys.executable, str(EXAMPLE / "generate.py"), "--out", str(data)]
        command += ["--calibration", "4", "--selection", "4", "--evaluation", "12"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise MissingError(f"the samples cannot be drawn ({lines[-1]}); pip install scikit-learn")
    samples = load_samples(data / "evaluation.jsonl")
    processor, family = load_processor(bundle.processor_folder), family_in(bundle.path)
    if text_alone:
        rows = [{"id": sample.id, "images": [], "prompt": question(sample)} for sample in samples[:ROWS]]
        (data / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [batch for _, batch in batches(load_samples(data / "text.jsonl"), processor, family, ROWS)]
    found = [batch for _, batch in batches(samples[:9], processor, family, ROWS)]
    return [*found, *(batch for _, batch in batches(samples[9:11], processor, family, 1))]


def check_target(record: Record, target: str, folder: Path, device: str) -> None:
    """Every step, for every schedule."""
    from vitcop.export.runtimes import open_target

    built = open_target(target)
    own = target == "tensorrt"
    for schedule in SCHEDULES:
        made: dict[str, Any] = {}

        def exported(schedule: str = schedule, made: dict = made) -> dict[str, Any]:
            made["bundle"] = export(schedule, folder)
            made["batches"] = prompts(made["bundle"], folder)
            made["text"] = prompts(made["bundle"], folder, text_alone=True)
            return {"line": f"{sum(len(batch.input_ids) for batch in made['batches'])} prompts"}

        if not record.step(f"{schedule}: export", exported):
            continue
        bundle, reference = made["bundle"], Reference(made["bundle"], made["batches"], device)
        text = Reference(bundle, made["text"], device)
        ways = PRECISE | (VARIANTS if schedule != "none" else {}) if own else {"fp32": {}}
        if own:
            record.step(f"{schedule}: dry run", lambda b=bundle: _dry_run(built, b))
        for way, chosen in ways.items():
            options = _options(chosen, folder) if own else {}
            name = f"{schedule}: {way}"
            run_only = "cuda_graph" in options
            if not run_only and not record.step(f"{name}: build", lambda b=bundle, o=options: _build(built, b, o)):
                continue
            record.step(f"{name}: verify", lambda r=reference, b=bundle, o=options: _verify(built, r, b, o))
            if options.get("min_images") == 0 or not own:
                words = f"{name}: verify without images"
                record.step(words, lambda r=text, b=bundle, o=options: _verify(built, r, b, o))
        options = _options({"precision": "fp32"}, folder) if own else {}
        if own:
            batch = made["batches"][0]
            record.step(f"{schedule}: shares of time", lambda b=bundle, x=batch, o=options: _shares(built, b, x, o))
        record.step(f"{schedule}: built again", lambda b=bundle, o=options: _reused(built, b, o))
        record.step(f"{schedule}: generate", lambda b=bundle, o=options: _generate(target, b, o, folder))


def _options(chosen: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With the limits, and every choice that tells engines apart said, so that each way finds its own engine."""
    told = {"precision": "fp32", "kv_cache": "in_place", "strip": False, "refit": "none", "version_compatible": False}
    told |= {"hardware_compatibility": "none", "min_images": 1, "weight_streaming": False, "optimization_level": 3}
    options = LIMITS | told | chosen
    if "timing_cache" in options:
        options["timing_cache"] = str(folder / options["timing_cache"])
    return options


def _dry_run(target: Any, bundle: Any) -> dict[str, Any]:
    found = target.dry_run(bundle, LIMITS)
    if not found.passed:
        raise GateError("; ".join(line for lines in found.unsupported.values() for line in lines))
    return {"plan": found.to_dict(), "line": f"nodes checked by {found.checked_by}"}


def _build(target: Any, bundle: Any, options: dict[str, Any]) -> dict[str, Any]:
    engine = target.build(bundle, options)
    # That the plugin layers are in the engines is a condition of the build itself; here they are counted.
    graphs = engine.sidecar.get("graphs", {})
    plugins = [name for graph in graphs.values() if "plugin_layers" in graph for name in graph["plugin_layers"]]
    facts = {
        part: {k: v for k, v in graph.items() if k != "tensors"} for part, graph in graphs.items() if "plan" in graph
    }
    form = engine.sidecar.get("kv_cache", {}).get("form")
    if "kv_cache" in options and (form == "plain") != (options["kv_cache"] == "plain"):
        raise GateError(f"the engine has caches of form {form}, asked for was {options['kv_cache']}")
    return {"graphs": facts, "kv_form": form, "line": f"{len(plugins)} plugin layers, caches: {form or 'not told'}"}


def _verify(target: Any, reference: Reference, bundle: Any, options: dict[str, Any]) -> dict[str, Any]:
    runner = target.runner(bundle, options)
    found = compare(reference, runner, getattr(runner, "dtype", bundle.manifest.architecture.dtype))
    if options.get("weight_streaming"):
        found["streamed_bytes"] = check_streamed(runner.streamed())
    return found


def check_streamed(budgets: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Of each graph, bytes: the budget on the device and all weights that can be streamed. Raises GateError unless
    weights are streamed: a budget of all of them streams nothing."""
    idle = [part for part, (budget, streamable) in budgets.items() if streamable and budget >= streamable]
    if idle or not any(streamable for _, streamable in budgets.values()):
        raise GateError(f"no weights are streamed in {', '.join(idle) or 'any graph'}: {budgets}")
    return budgets


def _shares(target: Any, bundle: Any, batch: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The share of time in the plugins' layers, as `bench` tells it: it must be there where there are plugins."""
    shares = target.selector_shares(bundle, batch, options)
    if not all(share is not None and 0 <= share < 1 for share in shares.values()):
        raise GateError(f"the time in the plugins' layers cannot be told: {shares}")
    if bundle.schedule.drops and not shares["prefill"]:
        raise GateError(f"no time is told for the plugins' layers of the prefill: {shares}")
    return {"shares": shares, "line": ", ".join(f"{part} {share:.1%}" for part, share in shares.items())}


def _reused(target: Any, bundle: Any, options: dict[str, Any]) -> dict[str, Any]:
    engine = target.build(bundle, options)
    if not engine.reused:
        raise GateError(f"the engine was built a second time: {engine.reason}")
    return {"line": engine.reason}


def _generate(target: str, bundle: Any, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    from vitcop.pipeline import generate

    row = json.loads((folder / "data" / "evaluation.jsonl").read_text().splitlines()[0])
    image = folder / "data" / row["images"][0]
    found = generate(bundle.path, [image], row["prompt"], target=target, options=options, max_new_tokens=8)
    if not found.tokens or not found.finished:
        raise GateError(f"no whole answer: {found.tokens}")
    return {
        "answer": found.text,
        "truth": row["answer"],
        "line": f"{row['prompt']} {found.text} (truth: {row['answer']})",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=("tensorrt", "onnxruntime"), default="tensorrt")
    target = parser.parse_args().target
    machine: dict[str, Any] = {}
    try:
        if importlib.util.find_spec("sklearn") is None:
            raise MissingError("the samples are drawn with scikit-learn; pip install scikit-learn")
        if target == "tensorrt":
            from dataclasses import asdict

            from vitcop.export.runtimes.tensorrt.preparation import plugin_library
            from vitcop.export.runtimes.tensorrt.sidecar import MachineFacts

            plugin = plugin_library(True)
            machine = asdict(MachineFacts.here(plugin))
            if plugin is None:
                raise MissingError("the plugin library is not built; run: make plugin TENSORRT_INCLUDE_DIR=…")
    except VitcopError as error:
        print(f"error: trt-check: {error}", file=sys.stderr)
        return error.exit_status
    OUT.mkdir(parents=True, exist_ok=True)
    # torch warns of its own tree specs while it captures; the lines here are for people.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
    record = Record(target)
    record.result["machine"] = machine
    with tempfile.TemporaryDirectory(prefix="trt-check-") as folder:
        check_target(record, target, Path(folder), "cuda" if target == "tensorrt" else "cpu")
    status = record.status()
    record.result["passed"] = status == 0
    record.save()
    steps = record.result["steps"].values()
    print(f"{sum(outcome['passed'] for outcome in steps)} of {len(steps)} steps passed")
    return status


if __name__ == "__main__":
    sys.exit(main())
