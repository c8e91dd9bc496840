"""A model of real width, cut to a few layers: the exported graphs against PyTorch under the same schedule.

Takes minutes, 3 GB of disk and about 12 GB of memory: PyTorch and ONNX Runtime each hold the weights.
"""

import pytest
from tensorrt_checks import checked
from tiny_models import build_tiny_llava

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import preset
from vitcop.export.bundle import Bundle
from vitcop.export.compile import export_bundle
from vitcop.export.measure.gates import LAYER_LIMITS, LOGIT_LIMITS
from vitcop.export.measure.losses import ExportLoss
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner

LAYERS, HIDDEN, IMAGE, PATCH = 4, 4096, 112, 14


@pytest.mark.slow
def test_four_layers_of_4096_match_torch(tmp_path, make_batch):
    """Prompt, drops and four decoded tokens in fp32, in sharded safetensors, with grouped-query heads of 128."""
    folder = build_tiny_llava(
        tmp_path / "wide-four",
        layers=LAYERS,
        hidden=HIDDEN,
        heads=32,
        kv_heads=8,
        intermediate=11008,
        image=IMAGE,
        patch=PATCH,
        vision_layers=2,
        vision_hidden=1024,
        vision_heads=16,
        weight_scale=1.0,  # Matrices of std 0.02 keep the size of what passes through them at this width.
        max_shard_size="1GB",
    )
    schedule = preset("paper-1/3", LAYERS, (IMAGE // PATCH) ** 2)
    bundle = checked(Bundle.open(export_bundle(folder, schedule, tmp_path / "bundle")))
    assert len(bundle.manifest.weights.files) >= 3
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) < 2_000_000

    model, processor, family = load_model(Checkpoint.open(folder))
    batch = make_batch(processor, family, 2)
    runners = ScheduledRunner(model, family, schedule), OnnxRuntimeRunner(bundle, threads=2)
    pruned, engine = (generate(each, batch, max_new_tokens=4, eos_ids=(), keep_logits=True) for each in runners)
    loss = ExportLoss(schedule)
    rows = loss.add(pruned, engine, runners[1], (batch.attention_mask == 0).sum(axis=1))
    assert not any(row.near_tie or row.kept_differs or row.answer_differs for row in rows)
    assert loss.logits.worst <= LOGIT_LIMITS["float32"]
    assert loss.layer_deviation <= LAYER_LIMITS["float32"]
