"""Overlays follow the traces: who stands for which patch after each stage, and what the picture shows of it."""

import base64
import io
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitcop.calibrate.run.runner import DropTrace, Prefill
from vitcop.pipeline.reporting.overlays import DROPPED, as_seen, data_uri, draw_stage, stages_of, whole_image
from vitcop.pipeline.reporting.pictures import choose

LOGITS = np.zeros((2, 3), dtype=np.float32)


def prefill(vision=None, drops=()) -> Prefill:
    return Prefill(logits=LOGITS, state=None, vision=vision, drops=tuple(drops))


def kept(*rows: list[int], **more) -> DropTrace:
    return DropTrace(kept_visual=np.array(rows), **more)


def test_indices_chain_from_stage_to_stage():
    done = prefill(kept([0, 1, 2], [1, 3, 5]), [kept([0, 1], [0, 2]), kept([0], [1])])
    stages = stages_of(done, 1, 6, ["at LLM input", "from layer 1 on", "from layer 3 on"])
    assert [stage.count for stage in stages] == [3, 2, 1]
    assert stages[0].owner.tolist() == [-1, 0, -1, 1, -1, 2]
    assert stages[1].owner.tolist() == [-1, 0, -1, -1, -1, 1]
    assert stages[2].owner.tolist() == [-1, -1, -1, -1, -1, 0]


def test_merged_tokens_stand_for_all_their_patches():
    assignment = np.array([[[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]]])
    done = prefill(kept([0, 2, 3, 5]), [kept([0, 1, 2], assignment=assignment), kept([1])])
    stages = stages_of(done, 0, 6, ["a", "b", "c"])
    assert stages[1].owner.tolist() == [0, -1, 1, 2, -1, 1]
    assert stages[2].owner.tolist() == [-1, -1, 0, -1, -1, 0]


def test_without_a_vision_stage_all_patches_enter():
    stages = stages_of(prefill(), 0, 4, ["at LLM input"])
    assert stages[0].owner.tolist() == [0, 1, 2, 3] and stages[0].count == 4


@given(st.data())
def test_every_stage_keeps_a_part_of_the_one_before(data):
    num = present = data.draw(st.integers(1, 30))
    traces = []
    for _ in range(3):
        subset = data.draw(st.sets(st.integers(0, present - 1), min_size=1))
        traces.append(kept(sorted(subset)))
        present = len(subset)
    stages = stages_of(prefill(traces[0], traces[1:]), 0, num, ["a", "b", "c"])
    before = np.ones(num, dtype=bool)
    for stage in stages:
        now = stage.owner != DROPPED
        assert now.sum() == stage.count and not (now & ~before).any()
        before = now


def test_kept_patches_are_bright_dropped_ones_grey_merged_ones_tinted():
    picture = np.zeros((240, 240, 3))
    picture[..., 0] = 1.0
    owner = np.array([0, DROPPED, 1, 1])
    drawn = draw_stage(picture, owner, (2, 2))
    assert drawn.shape == (240, 240, 3) and drawn.dtype == np.uint8
    assert drawn[60, 60].tolist() == [255, 0, 0]
    assert len(set(drawn[60, 180].tolist())) == 1 and 120 < drawn[60, 180, 0] < 220
    assert drawn[180, 60].tolist() == drawn[180, 180].tolist() != [255, 0, 0]
    assert drawn[120, 60].tolist() != drawn[119, 60].tolist(), "a line between two owners"
    assert drawn[180, 120].tolist() == drawn[180, 60].tolist(), "no line inside a group"


def test_small_pictures_grow_by_a_whole_factor():
    small = np.random.default_rng(0).random((32, 48, 3))
    drawn = draw_stage(small, whole_image(4).owner, (2, 2))
    assert drawn.shape == (256, 384, 3)
    assert np.array_equal(drawn[::8, ::8], (small * 255 + 0.5).astype(np.uint8))


def test_as_seen_undoes_the_normalisation():
    picture = np.random.default_rng(1).random((8, 8, 3))
    mean, std = np.array([0.48, 0.45, 0.4]), np.array([0.27, 0.26, 0.28])
    pixels = np.moveaxis((picture - mean) / std, -1, 0).astype(np.float32)
    np.testing.assert_allclose(as_seen(pixels, mean, std), picture, atol=1e-6)


def test_data_uri_is_a_png():
    picture = np.random.default_rng(2).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    head, body = data_uri(picture).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), picture)


def test_samples_of_all_subsets_and_each_image_once():
    samples = [
        SimpleNamespace(id=str(i), subset=subset, images=(image,))
        for i, (subset, image) in enumerate([("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "4"), (None, "5")])
    ]
    assert [sample.id for sample in choose(samples, 4)] == ["0", "4", "5", "1"]
    assert len(choose(samples, 99)) == 5 and choose(samples, 0) == []
