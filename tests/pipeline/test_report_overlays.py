"""Overlays: who stands for which patch at a stage, and what the picture shows of it."""

import base64
import io

import numpy as np
from PIL import Image

from vitcop.pipeline.reporting.overlays import DROPPED, as_seen, data_uri, draw_stage, owners_of


def test_each_patch_has_the_token_that_stands_for_it():
    owner, count = owners_of("5 0+3 2", 6)
    assert owner.tolist() == [1, DROPPED, 2, 1, DROPPED, 0] and count == 3


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
    drawn = draw_stage(small, np.zeros(4, dtype=int), (2, 2))
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
