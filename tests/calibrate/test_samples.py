"""Sample files: what they may hold, and that everything wrong with them is told before a model runs."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from made_samples import write_samples
from PIL import Image

from vitcop.calibrate.data.samples import MAX_PIXELS, batches, load_samples, samples_digest
from vitcop.plugins.errors import InputError


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "a.png")
    frames = [Image.new("RGB", (8, 6), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    for name in ("empty", "uneven", "frames"):
        (tmp_path / name).mkdir()
    for i in range(3):
        frames[i].save(tmp_path / "frames" / f"{i:03d}.png")
        frames[i].resize((8 + i, 6)).save(tmp_path / "uneven" / f"{i}.png")
    return tmp_path


def write(folder, *lines):
    file = folder / "s.jsonl"
    file.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return file


def sample(**changes):
    line = {"id": "x", "images": ["a.png"], "prompt": "what ?", **changes}
    return {key: value for key, value in line.items() if value is not ...}


def refused(file) -> str:
    with pytest.raises(InputError) as caught:
        load_samples(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_prompt_gets_one_image_in_front(folder):
    (loaded,) = load_samples(write(folder, sample(answer="red", subset="color")))
    assert loaded.conversation() == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]}
    ]
    assert (loaded.answer, loaded.answers, loaded.subset) == ("red", ("red",), "color")
    (picture,) = loaded.open_images()
    assert picture.mode == "RGB" and picture.size == (8, 6)


def test_every_image_gets_a_placeholder_and_text_needs_none(folder):
    two, none = load_samples(
        write(folder, sample(images=["a.png", "a.png"]), sample(id="text", images=[], prompt="what ?"))
    )
    assert [part["type"] for part in two.conversation()[0]["content"]] == ["image", "image", "text"]
    assert none.conversation()[0]["content"] == [{"type": "text", "text": "what ?"}]
    assert none.open_images() == none.open_videos() == []


@pytest.mark.parametrize("name", ["film.gif", "frames"])
def test_a_video_is_a_folder_of_frames_or_an_animated_image(folder, name):
    (loaded,) = load_samples(write(folder, sample(images=..., video=name)))
    assert [part["type"] for part in loaded.conversation()[0]["content"]] == ["video", "text"]
    (frames,) = loaded.open_videos()
    assert [frame.mode for frame in frames] == ["RGB"] * 3 and {frame.size for frame in frames} == {(8, 6)}
    reds = [frame.getpixel((0, 0))[0] for frame in frames]
    assert reds == sorted(reds) and reds[0] < reds[2]


def test_the_digest_of_a_video_is_that_of_its_frames(folder):
    line = sample(images=..., video="frames")
    (before,) = load_samples(write(folder, line))
    Image.new("RGB", (8, 6), (0, 9, 0)).save(folder / "frames" / "001.png")
    (after,) = load_samples(write(folder, line))
    assert before.digest != after.digest and before.content_digest != after.content_digest


def test_placeholder_in_prompt_is_honoured(folder):
    (loaded,) = load_samples(write(folder, sample(prompt="look: <image>\nwhat ?")))
    kinds = [part.get("text", "IMAGE") for part in loaded.conversation()[0]["content"]]
    assert kinds == ["look:", "IMAGE", "what ?"]


def test_conversation(folder):
    turns = [
        {"role": "system", "content": "short answers"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one ?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "two ?"}]},
    ]
    (loaded,) = load_samples(write(folder, sample(prompt=..., conversation=turns, answer=["a", "b"])))
    assert [message["role"] for message in loaded.conversation()] == ["system", "user", "assistant", "user"]
    assert loaded.answers == ("a", "b") and loaded.answer == "a"


def test_limit_and_blank_lines(folder):
    file = write(folder, sample(), b"", sample(id="y"), b"broken")
    assert [item.id for item in load_samples(file, limit=2)] == ["x", "y"]
    assert "s.jsonl:4: not JSON" in refused(file)


def test_orientation_and_mode(folder):
    picture = Image.new("RGBA", (8, 6))
    exif = picture.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    picture.save(folder / "turned.png", exif=exif)
    (loaded,) = load_samples(write(folder, sample(images=["turned.png"])))
    assert loaded.open_images()[0].size == (6, 8) and loaded.open_images()[0].mode == "RGB"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        ([1], "expected a JSON object"),
        (sample(id=...), "needs an 'id'"),
        (sample(images=...), "sample x: needs 'images'"),
        (sample(images="a.png"), "'images' must be a list"),
        (sample(prompt=...), "exactly one of 'prompt' and 'conversation'"),
        (sample(conversation=[]), "exactly one of"),
        (sample(prompt=" "), "'prompt' must be a text"),
        (sample(prompt=..., conversation=[{"role": "user", "content": "no image"}]), "no image placeholder"),
        (sample(prompt=..., conversation=[{"role": "robot", "content": "<image>"}]), "needs a 'role'"),
        (sample(prompt=..., conversation=[{"role": "user", "content": [{"type": "audio"}]}]), "content part"),
        (sample(prompt=..., conversation=[{"role": "user", "content": []}]), "has no content"),
        (
            sample(
                prompt=...,
                conversation=[{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "yes"}],
            ),
            "must end with a user message",
        ),
        (sample(images=["a.png", "a.png"], prompt="<image> ?"), "2 images but 1 image placeholders"),
        (sample(images=[], prompt="<image> ?"), "0 images but 1 image placeholders"),
        (sample(images=["b.png"]), "b.png is not there"),
        (sample(images=["."]), "is not there"),
        (sample(video=["v"]), "'video' must be the name"),
        (sample(video="v.mp4"), "v.mp4 is not there"),
        (sample(video="empty"), "holds no frames"),
        (sample(video="uneven"), "differ in size"),
        (sample(video="film.gif", prompt="<image> <video> <video>"), "1 videos but 2 video placeholders"),
        (sample(answer=3), "'answer' must be"),
        (sample(subset=3), "'subset' must be"),
    ],
)
def test_bad_lines_are_named(folder, line, said):
    message = refused(write(folder, sample(id="good"), line))
    assert said in message and "s.jsonl:2" in message


def test_duplicate_ids(folder):
    assert "id 'x' is already used on line 1" in refused(write(folder, sample(), sample()))


def test_empty_and_missing_file(folder):
    assert "no samples" in refused(write(folder, b""))
    assert "cannot read the samples" in refused(folder / "nowhere.jsonl")


def test_broken_images(folder):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    (folder / "cut.jpg").write_bytes(stream.getvalue()[:-200])
    (folder / "text.png").write_text("not a picture")
    for name in ("cut.jpg", "text.png"):
        message = refused(write(folder, sample(images=[name])))
        assert "sample x" in message and name in message and "cannot be decoded" in message


def test_absurdly_large_images(folder):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def header(side):
        size = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    for side in (int(MAX_PIXELS**0.5) + 1, 60_000):
        (folder / "bomb.png").write_bytes(header(side))
        message = refused(write(folder, sample(images=["bomb.png"])))
        assert "pixels" in message and "scale it down" in message


def test_digest_follows_content_not_place(folder, tmp_path_factory):
    before = samples_digest(load_samples(write(folder, sample())))
    other = tmp_path_factory.mktemp("other")
    (other / "a.png").write_bytes((folder / "a.png").read_bytes())
    assert samples_digest(load_samples(write(other, sample()))) == before
    Image.new("RGB", (8, 6), (0, 0, 255)).save(other / "a.png")
    assert samples_digest(load_samples(other / "s.jsonl")) != before
    assert samples_digest(load_samples(write(folder, sample(prompt="other ?")))) != before


def test_content_digest_is_of_what_the_model_sees(folder):
    first, other_answer, other_prompt = load_samples(
        write(
            folder,
            sample(answer="red", subset="colors"),
            sample(id="y", answer=["blue"]),
            sample(id="z", prompt="other ?"),
        )
    )
    assert first.content_digest == other_answer.content_digest != other_prompt.content_digest
    assert first.digest != other_answer.digest
    Image.new("RGB", (8, 6), (0, 0, 255)).save(folder / "a.png")
    assert load_samples(folder / "s.jsonl")[0].content_digest != first.content_digest


def test_batches_group_by_length_and_lose_nothing(tiny, tmp_path):
    loaded = load_samples(write_samples(tmp_path, 10, seed=3))
    found = list(batches(loaded, tiny.processor, tiny.family, 4))
    assert sorted(item.id for members, _ in found for item in members) == sorted(item.id for item in loaded)
    again = list(batches(loaded, tiny.processor, tiny.family, 4))
    for (members, batch), (other, batch_again) in zip(found, again, strict=True):
        assert [item.id for item in members] == [item.id for item in other]
        np.testing.assert_array_equal(batch.input_ids, batch_again.input_ids)
        lengths = batch.attention_mask.sum(axis=1)
        assert (np.diff(lengths) >= 0).all()
        assert (batch.input_ids[np.arange(len(members))[:, None], batch.visual_index] == tiny.family.image_token).all()
        for row, member in enumerate(members):
            ((_, alone),) = batches([member], tiny.processor, tiny.family, 1)
            np.testing.assert_array_equal(batch.input_ids[row, -lengths[row] :], alone.input_ids[0])
            np.testing.assert_array_equal(batch.position_ids[row, -lengths[row] :], alone.position_ids[0])
            np.testing.assert_array_equal(
                batch.vision_inputs["pixel_values"][row], alone.vision_inputs["pixel_values"][0]
            )


def test_a_sample_that_the_model_cannot_take_is_named(tiny, folder):
    loaded = load_samples(write(folder, sample(id="film", images=..., video="frames")))
    with pytest.raises(InputError, match="sample film: models of family llava take no video"):
        list(batches(loaded, tiny.processor, tiny.family, 1))
