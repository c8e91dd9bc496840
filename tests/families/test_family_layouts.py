"""Any-resolution families without exporting: tokens, tables and features for images of odd sizes, as transformers has
them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anyres_parts import IMAGE, VIDEO
from family_case import Prompt, picture, prepare
from llava_next_cases import build_llava_next
from llava_next_video_cases import build_llava_next_video
from llava_onevision_cases import SEVERAL_VIDEOS, build_llava_onevision

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.models.families.layout import GRID, GROUP, PATCHES
from vitcop.calibrate.models.families.mixture import Mixture, mixed, with_newlines
from vitcop.calibrate.models.loading import load_model
from vitcop.plugins.errors import InputError

SIZES = {
    "wide": (90, 17),
    "tall": (13, 101),
    "thin": (1, 400),
    "flat": (300, 1),
    "tiny": (2, 3),
    "huge": (1201, 997),
    "square": (64, 64),
    "odd": (57, 41),
}
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "next": build_llava_next,
    "next-video": build_llava_next_video,
    "next-video-odd": partial(build_llava_next_video, tile=20, stride=3),
    "onevision": build_llava_onevision,
    "onevision-max-9": partial(build_llava_onevision, limit=9, edge=6, head=True, feature_layer=-2),
}
VIDEOS = tuple(name for name in FAMILIES if name != "next")


@dataclass(frozen=True)
class Loaded:
    """A tiny model with its processor."""

    folder: Path
    model: Any
    processor: Any
    family: Any


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Callable[[str], Loaded]:
    known: dict[str, Loaded] = {}

    def load(name: str) -> Loaded:
        if name not in known:
            folder = FAMILIES[name](tmp_path_factory.mktemp(name) / "model")
            known[name] = Loaded(folder, *load_model(Checkpoint.open(folder)))
        return known[name]

    return load


def check(loaded: Loaded, *prompts: Prompt) -> None:
    """Features of `encode` and `assemble` are those of the model's own code; tables fit the tiles."""
    family, model = loaded.family, loaded.model
    batch = prepare(family, loaded.processor, prompts)
    tables = {name: torch.as_tensor(array) for name, array in batch.vision_inputs.items()}
    with torch.inference_mode():
        own = family.visual_features(model, {name: torch.as_tensor(x) for name, x in batch.model_inputs.items()})
        encoding = family.encode(model, tables)
        (features,) = family.assemble(model, encoding.rows, tables)
    ids, expected = torch.as_tensor(batch.visual_ids), torch.full_like(features, torch.nan)
    for token, (found,) in zip([t for t in family.visual_tokens if (ids == t).any()], own, strict=True):
        expected[ids == token] = found  # raises where the model demands another number of tokens
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

    num_tiles, side = len(tables["pixel_values"]), family.side
    assert encoding.keys.shape[0] == num_tiles * side**2
    patches, grid, group = (batch.vision_inputs[name] for name in (PATCHES, GRID, GROUP))
    assert patches.min() >= 0 and patches.max() < num_tiles * side**2
    assert patches.shape == (*batch.visual_index.shape, family.patches_per_token)
    assert grid.min() >= 0 and grid.max() < 1
    tile, place = np.divmod(patches, side**2)
    assert (tile == group[..., None]).any(axis=2).all()
    spoken = np.stack(np.divmod(place, side), axis=-1) / side
    assert (np.abs(spoken - grid[:, :, None]).max(axis=3) < 1e-6).any(axis=2).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_alone(loaded, name, size):
    check(loaded(name), Prompt(f"{IMAGE} what", (SIZES[size],)))


@pytest.mark.parametrize(("name", "image"), (("next", 336), ("onevision", 384)))
def test_tokens_at_the_size_of_real_models(loaded, name, image):
    """The model's own packing of random features, for the towers and pinpoints that published models have."""
    subject, stream = loaded(name), np.random.default_rng(0)
    kind = type(subject.model.config)
    config = kind(
        vision_config=subject.model.config.vision_config.to_dict() | {"image_size": image, "patch_size": 14},
        text_config=subject.model.config.text_config.to_dict(),
        architectures=subject.model.config.architectures,
    )
    family, newline = family_of(config), torch.zeros(4)
    own = {"vision_aspect_ratio": "anyres_max_9"} if name == "onevision" else {"vision_feature_select_strategy": ""}
    model = SimpleNamespace(config=config)
    for _ in range(12):
        height, width = (int(size) for size in np.exp(stream.uniform(np.log(20), np.log(4000), 2)))
        features = torch.randn(family.num_tiles(height, width, True), family.side**2, 4)
        pack = type(subject.model.model).pack_image_features
        (expected,), _ = pack(model, [features], torch.tensor([[height, width]]), image_newline=newline, **own)
        tables = family.image_tokens(height, width, True).layout(family.side).tables
        inputs = {table: torch.as_tensor(array)[None] for table, array in tables.items()}
        found = with_newlines(mixed(features.flatten(0, 1), inputs), inputs, newline)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_images_of_several_sizes_and_prompts(loaded, name):
    wide, tall, odd = SIZES["wide"], SIZES["tall"], SIZES["odd"]
    check(
        loaded(name),
        Prompt(f"{IMAGE} {IMAGE} is this {IMAGE}", (wide, tall, odd)),
        Prompt(f"is {IMAGE} {IMAGE} this {IMAGE}", (odd, wide, tall)),
    )


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_and_images(loaded, name):
    if name.startswith("onevision") and not SEVERAL_VIDEOS:
        pytest.skip("this transformers gives several videos one newline together")
    odd, film = SIZES["odd"], (3, 50, 30)
    check(loaded(name), Prompt(f"{VIDEO} what", (), (film,)), Prompt(f"is {VIDEO}", (), ((3, 20, 90),)))
    check(
        loaded(name),
        Prompt(f"{VIDEO} {IMAGE} {VIDEO}", (odd,), (film, film)),
        Prompt(f"{VIDEO} {VIDEO} {IMAGE}", (odd,), (film, film)),
    )


def test_a_newline_is_judged_by_the_patch_before_it(loaded):
    batch = prepare(loaded("next").family, loaded("next").processor, (Prompt(f"{IMAGE} what", (SIZES["square"],)),))
    rows, patches = batch.vision_inputs["visual_rows"][0], batch.vision_inputs[PATCHES][0, :, 0]
    side = loaded("next").family.side
    newlines = np.flatnonzero(rows == -1)
    assert len(newlines) == 2 * side
    np.testing.assert_array_equal(patches[newlines], rows[newlines - 1])
    np.testing.assert_array_equal(patches[rows != -1], rows[rows != -1])
    np.testing.assert_array_equal(rows[: side**2], np.arange(side**2))


def test_bilinear_weights_are_those_of_torch():
    stream = np.random.default_rng(0)
    for height, width, lines, columns in ((27, 27, 14, 14), (135, 81, 104, 62), (5, 162, 5, 93), (7, 3, 9, 4)):
        values = stream.standard_normal((height, width)).astype(np.float32)
        mixture = Mixture.bilinear(np.arange(height * width).reshape(height, width), lines, columns)
        expected = torch.nn.functional.interpolate(torch.tensor(values)[None, None], (lines, columns), mode="bilinear")
        mixed = (values.reshape(-1)[mixture.rows] * mixture.weights).sum(axis=-1)
        np.testing.assert_allclose(mixed, expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_token_ids_and_pixels_are_those_of_transformers_llava_next(loaded, size):
    from transformers import LlavaNextProcessor

    subject, text, image = loaded("next"), f"USER: {IMAGE} what is this ? ASSISTANT:", picture(*SIZES[size], 0)
    theirs = LlavaNextProcessor(
        subject.processor.image_processor,
        subject.processor.tokenizer,
        patch_size=subject.family.config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )(images=[image], text=[text], return_tensors="np")
    batch = subject.family.prepare(subject.processor, [text], [[image]])
    np.testing.assert_array_equal(batch.input_ids, theirs["input_ids"])
    np.testing.assert_array_equal(batch.model_inputs["image_sizes"], theirs["image_sizes"])
    np.testing.assert_array_equal(batch.model_inputs["pixel_values"], theirs["pixel_values"][0])


def test_frames_are_resized_or_cropped_as_the_settings_say(loaded):
    from PIL import Image

    from vitcop.calibrate.models.families.frames import video_pixels

    processor = loaded("onevision").processor
    # The left half is black, the right half white; the middle third has both.
    frame = Image.fromarray(np.repeat(np.repeat([[0, 255]], 30, axis=1), 20, axis=0).astype(np.uint8)).convert("RGB")
    whole = video_pixels(processor, [[frame] * 2], 20, crop=False)
    middle = video_pixels(processor, [[frame] * 2], 20, crop=True)
    assert whole.shape == middle.shape == (1, 2, 3, 20, 20)
    lows = [pixels[0, 0, 0].min() for pixels in (whole, middle)]
    assert lows[0] == lows[1] and (whole[0, 0, 0, :, 0] == lows[0]).all()
    middle_of = [np.asarray(frame.crop((20, 0, 40, 20)))[..., 0] > 0, middle[0, 0, 0] > lows[0]]
    np.testing.assert_array_equal(*middle_of)
    with pytest.raises(InputError, match=r"the videos of one prompt have \[1, 2\] frames"):
        video_pixels(processor, [[frame], [frame] * 2], 20, crop=True)


def test_settings_that_are_not_supported_are_named(loaded):
    def refused(name: str, **changes: Any) -> str:
        config = type(loaded(name).family.config).from_pretrained(loaded(name).folder)
        for path, value in changes.items():
            *owners, last = path.split("__")
            owner = config
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, last, value)
        with pytest.raises(InputError) as error:
            family_of(config)
        return str(error.value)

    assert "text_config.sliding_window 512 is not supported for llava_next" in refused(
        "next", text_config__sliding_window=512
    )
    assert "spatial_pool_mode 'max' is not supported" in refused("next-video", spatial_pool_mode="max")
    assert "vision_aspect_ratio 'square' is not supported" in refused("onevision", vision_aspect_ratio="square")
    assert "image_grid_pinpoints [20, 50] is not made of whole tiles" in refused(
        "onevision", image_grid_pinpoints=[[20, 40], [20, 50]]
    )
    assert "text_config.model_type 'llama' is not supported" in refused("onevision", text_config__model_type="llama")


def test_tiles_of_another_size_are_named(loaded):
    family, processor = loaded("next").family, loaded("next").processor
    before = processor.image_processor.image_grid_pinpoints
    processor.image_processor.image_grid_pinpoints = [[16, 16]]
    try:
        with pytest.raises(InputError, match=r"preprocessor_config.json: an image of 57x41 pixels became tiles \(2, 3"):
            prepare(family, processor, (Prompt(f"{IMAGE} what", (SIZES["odd"],)),))
    finally:
        processor.image_processor.image_grid_pinpoints = before


def test_a_window_that_is_in_no_layer_is_none(loaded):
    from transformers import MistralConfig, Qwen2Config

    config = type(loaded("next").family.config).from_pretrained(loaded("next").folder)
    config.text_config = Qwen2Config(num_hidden_layers=2, use_sliding_window=True, max_window_layers=2)
    assert config.text_config.sliding_window is not None
    assert family_of(config).window is None
    config.text_config = Qwen2Config(num_hidden_layers=2, use_sliding_window=True, max_window_layers=1)
    assert family_of(config).window == config.text_config.sliding_window
    assert family_of(config).sliding_layers == {1}
    config.text_config = MistralConfig(num_hidden_layers=2, sliding_window=512)
    assert family_of(config).sliding_layers == {0, 1}
