"""Timing real engines for a cost table: cut and lengthened prompts through graphs that drop and merge."""

from contextlib import contextmanager

import pytest
from export_cases import ONE_MERGE

from vitcop.calibrate.core.progress import NoProgress
from vitcop.calibrate.schedule.latency_fit import fit, forecast
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.measure.cost_table import Protocol, time_probes
from vitcop.export.measure.probes import Probe, plain_probe
from vitcop.export.measure.prompt_sizes import resized, token_tables
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner


@pytest.mark.parametrize("rows", [1, 3])
def test_cut_prompts_run_and_keep_what_the_schedule_says(plain, merged, make_batch, rows):
    batch = make_batch(plain.processor, plain.family, rows)
    tables = token_tables(plain.family)
    bundles = {"none": plain.bundle, "merged": merged.bundle}
    text = batch.input_ids.shape[1] - batch.num_visual
    lengths = []

    class Watched(OnnxRuntimeRunner):
        def prefill(self, prompt):
            done = super().prefill(prompt)
            lengths.append((prompt.num_visual, prompt.input_ids.shape[1], done.kv_lengths, self.schedule))
            return done

    @contextmanager
    def open_probe(probe):
        yield Watched(bundles[probe.name], threads=1)

    probe = Probe(schedule=ONE_MERGE, name="merged", sizes=((16, 0), (8, 5), (12, 0)))
    found = time_probes(
        plain_probe(2, 16),
        [probe],
        open_probe,
        lambda size: resized(batch, *size, tables),
        Protocol(repeats=2, warmup=0, seed=0, settle=0.0),
        NoProgress(),
    )
    assert (8, 8 + text + 5) in {(visual, length) for visual, length, _, _ in lengths}
    for visual, length, kv_lengths, schedule in lengths:
        counts = schedule.group_counts(visual)
        assert kv_lengths == tuple(count + length - visual for count in counts)
    points = [*found["none"], *found["merged"]]
    assert all(point.vision > 0 and point.prefill > 0 for point in points)
    coefficients = fit(points, (8,))
    assert {"drop.merge", "drop.k_norm", "vision.score.class_attention", "vision.clusters"} <= set(coefficients)
    assert all(sum(forecast(coefficients, point, (8,))) > 0 for point in points)
    assert Schedule(num_layers=2) == points[0].schedule
