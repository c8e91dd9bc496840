"""Every family, exported: the engine answers like transformers without a schedule, and like PyTorch under each one."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families_under_test import CASES
from family_case import FamilyCase, merge_schedule, other_schedules, prepare
from tensorrt_checks import check_profiles, checked

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.run.scheduled import OriginalRunner, ScheduledRunner
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import GRAPHS, Bundle
from vitcop.export.capture.captures import Captures
from vitcop.export.compile import export_bundle
from vitcop.export.runtimes.onnxruntime.builder import build
from vitcop.export.runtimes.onnxruntime.runner import OnnxRuntimeRunner

NEW_TOKENS = 5
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Subject:
    """A tiny model of a family and its batches."""

    case: FamilyCase
    folder: Path
    model: Any
    family: Any
    batches: dict[str, PromptBatch]
    captures: Captures = field(default_factory=Captures)


def engines_of(*slow: str) -> Any:
    """Parametrize over all cases, of which the slow ones and those of these names are left to `make soak`."""
    marked = [(case, [pytest.mark.slow] * (case.slow or case.name in slow)) for case in CASES]
    params = [pytest.param(case, id=case.name, marks=marks) for case, marks in marked]
    return pytest.mark.parametrize("subject", params, indirect=True)


@pytest.fixture(scope="module")
def subject(request, tmp_path_factory) -> Subject:
    case = request.param
    folder = case.build(tmp_path_factory.mktemp(case.name) / case.name)
    model, processor, family = load_model(Checkpoint.open(folder))
    batches = {name: prepare(family, processor, prompts) for name, prompts in case.batches.items()}
    return Subject(case, folder, model, family, batches)


def bundle_of(subject: Subject, schedule: Schedule, out: Path) -> Bundle:
    path = export_bundle(subject.folder, schedule, out, captures=subject.captures)
    bundle = checked(Bundle.open(path), out.with_name(f"{out.name}-halves"))
    build(bundle)  # holds the graphs against the contract
    return bundle


def answers(runner: Any, batch: PromptBatch) -> Any:
    return generate(runner, batch, max_new_tokens=NEW_TOKENS, eos_ids=(), keep_logits=True)


def by_transformers(subject: Subject, batch: PromptBatch) -> np.ndarray:
    """Logits [B,T,vocab] of transformers' own generate, which finds positions by itself and never ends early."""
    inputs = batch.model_inputs | subject.case.generate_inputs(subject.family, batch)
    out = subject.model.generate(
        input_ids=torch.tensor(batch.input_ids),
        attention_mask=torch.tensor(batch.attention_mask),
        **{name: torch.as_tensor(array) for name, array in inputs.items()},
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(out.logits, dim=1).numpy()


@engines_of()
def test_without_a_schedule_pytorch_is_transformers(subject):
    check_whole(subject, OriginalRunner(subject.model, subject.family))
    check_whole(subject, ScheduledRunner(subject.model, subject.family, none(subject)))


# Of two configurations of one family, the one with sliding windows has all that the other has. The engine of LLaVA is
# held against transformers in tests/export.
@engines_of("llava", "llava-next")
def test_without_a_schedule_the_engine_is_transformers(subject, tmp_path):
    bundle = bundle_of(subject, none(subject), tmp_path / "bundle")
    check_single_ops(subject.case, bundle)
    check_whole(subject, OnnxRuntimeRunner(bundle))


@engines_of("llava-next")
def test_under_a_schedule_the_engine_is_pytorch(subject, tmp_path):
    check_pruned(subject, merging(subject), tmp_path / "merge")


# One shape of each family; the shapes differ in widths and heads, which no schedule asks about.
@pytest.mark.slow
@pytest.mark.parametrize(
    "subject", [each for each in CASES if not each.slow], indirect=True, ids=lambda case: case.name
)
def test_under_every_schedule_the_engine_is_pytorch(subject, tmp_path):
    family = subject.family
    schedules = other_schedules(family.num_layers, family.vision_scores, newlines=subject.case.newlines)
    for name, schedule in schedules.items():
        check_pruned(subject, schedule, tmp_path / name)


def none(subject: Subject) -> Schedule:
    return Schedule(num_layers=subject.family.num_layers)


def merging(subject: Subject) -> Schedule:
    family = subject.family
    return merge_schedule(family.num_layers, family.vision_scores[0], newlines=subject.case.newlines)


def check_whole(subject: Subject, runner: Any) -> None:
    """A runner that drops nothing against transformers, batch by batch: tokens and logits."""
    for name, batch in subject.batches.items():
        logits, found = by_transformers(subject, batch), answers(runner, batch)
        assert found.tokens == logits.argmax(axis=2).tolist(), f"{name}, {runner.name}"
        np.testing.assert_allclose(found.logits, logits, atol=TOLERANCE, err_msg=f"{name}, {runner.name}")


def check_pruned(subject: Subject, schedule: Schedule, out: Path) -> None:
    """Engine against PyTorch under one schedule, batch by batch: tokens, logits, lengths and kept tokens."""
    bundle = bundle_of(subject, schedule, out)
    check_single_ops(subject.case, bundle)
    engine = OnnxRuntimeRunner(bundle)
    pytorch = ScheduledRunner(subject.model, subject.family, schedule)
    for kind, batch in subject.batches.items():
        what = f"{out.name}, {kind}"
        expected, found = answers(pytorch, batch), answers(engine, batch)
        assert found.tokens == expected.tokens, what
        np.testing.assert_allclose(found.logits, expected.logits, atol=TOLERANCE, err_msg=what)
        assert found.prefill.kv_lengths == expected.prefill.kv_lengths, what
        check_profiles(bundle, batch, found.prefill, NEW_TOKENS)
        assert (found.prefill.vision is None) == (schedule.vision is None), what
        if schedule.vision is not None:
            kept = found.prefill.vision.kept_visual, expected.prefill.vision.kept_visual
            np.testing.assert_array_equal(*kept, err_msg=what)
        for mine, theirs in zip(found.prefill.drops, expected.prefill.drops, strict=True):
            np.testing.assert_array_equal(mine.kept_visual, theirs.kept_visual, err_msg=what)


@engines_of()
def test_text_alone_drops_nothing(subject):
    schedule = merging(subject)
    batch = subject.batches["text"]
    prefill = ScheduledRunner(subject.model, subject.family, schedule).prefill(batch)
    assert set(prefill.kv_lengths) == {batch.input_ids.shape[1]}
    original = OriginalRunner(subject.model, subject.family).prefill(batch)
    np.testing.assert_allclose(prefill.logits, original.logits, atol=TOLERANCE)


@engines_of()
def test_kept_tokens_keep_their_position_ids(subject):
    for batch in subject.batches.values():
        keep = np.arange(batch.num_visual)[None].repeat(len(batch.input_ids), axis=0)[:, ::3]
        shorter = batch.after_drop(keep)
        rows = np.arange(len(keep))[:, None]
        before = batch.position_ids[rows, batch.visual_index][rows, keep]
        np.testing.assert_array_equal(shorter.position_ids[rows, shorter.visual_index], before)
        np.testing.assert_array_equal(shorter.next_position, batch.next_position)


def check_single_ops(case: FamilyCase, bundle: Bundle) -> None:
    """Attention, norms and rotary embeddings stay whole, and nothing computes in fp64."""
    for index, part in enumerate(GRAPHS):
        graph = onnx.load(bundle.graph(part), load_external_data=False).graph
        counts = Counter(node.op_type for node in graph.node)
        for op, expected in case.nodes.items():
            assert counts[op] == expected[index], f"{part}: {op} {counts[op]}"
        types = {tensor.data_type for tensor in graph.initializer}
        casts = {a.i for node in graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
        assert onnx.TensorProto.DOUBLE not in types | casts, part
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        assert all(read & set(node.output) for node in graph.node), f"{part}: a node that nobody reads"
