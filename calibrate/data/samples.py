"""Sample sets: JSONL files of images, prompts and answers, checked whole before any model runs."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitcop.calibrate.models.families import Family
    from vitcop.calibrate.models.processor import Processor

PLACEHOLDER, VIDEO_PLACEHOLDER = "<image>", "<video>"
"""Where an image or the video goes in a prompt string or a text; replaced by the model's own placeholder through its
chat template."""

MAX_PIXELS = 64_000_000
"""Largest image that is decoded. Beyond it a file is an accident or a decompression bomb."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that PIL may open here; each is decoded in process, by PIL alone."""

WINDOW_BATCHES = 16
"""Samples are sorted by length within windows of this many batches, which bounds the preprocessed images held in
memory."""

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Names of the files of a folder that are taken for frames of a video."""

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its images or video; one of text alone has neither.

    Args:
        id: unique in its set.
        images: image files, in the order of their placeholders.
        video: the video: a folder of frames, or an animated image; None where there is none.
        messages: the conversation, each {"role", "content": [{"type": "image"} | {"type": "video"} | {"type": "text",
            "text"}]}.
        answers: accepted answers; empty where none is known.
        subset: name of the part that it belongs to (question type, task), for tables by part.
        digest: sha256 of the content: messages, answers, subset and image bytes.
        content_digest: sha256 of what the model sees: messages and image bytes. Two samples that share it are one
            question, whatever their answers say.
        picture_digests: sha256 of each image file, and of the video's frames together; samples that share one are not
            independent.
    """

    id: str
    images: tuple[Path, ...]
    messages: tuple[dict[str, Any], ...]
    video: Path | None = None
    answers: tuple[str, ...] = ()
    subset: str | None = None
    digest: str = ""
    content_digest: str = ""
    picture_digests: tuple[str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The first accepted answer."""
        return self.answers[0] if self.answers else None

    def conversation(self) -> list[dict[str, Any]]:
        """The conversation in the shape that Hugging Face chat templates read."""
        return [
            {"role": message["role"], "content": [dict(part) for part in message["content"]]}
            for message in self.messages
        ]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with absolute paths: a worker that reads them sees the very sample."""
        video = None if self.video is None else str(self.video.resolve())
        return asdict(self) | {"images": [str(path.resolve()) for path in self.images], "video": video}

    def open_images(self) -> "list[Image]":
        """The images, decoded, upright (EXIF orientation applied, as transformers does) and in RGB."""
        return [open_image(path, f"sample {self.id}") for path in self.images]

    def open_videos(self) -> "list[list[Image]]":
        """The frames of the video, as a list of one video, or of none."""
        return [] if self.video is None else [open_frames(self.video, f"sample {self.id}")]


def open_image(path: Path, who: str) -> "Image":
    """Decode one image file to upright RGB. Raises InputError that names `who` and the file."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise InputError(f"{who}: image {path} is not there")
    try:
        with warnings.catch_warnings():
            # PIL warns of large images before our own limit can speak.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                _check_size(image.size, path, who)
                image.verify()
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{who}: image {path} is larger than {MAX_PIXELS} pixels; scale it down") from None
    except (
        Exception
    ) as error:  # decoders raise many types at broken files: OSError, SyntaxError, ValueError, struct.error, …
        raise InputError(
            f"{who}: image {path} cannot be decoded ({type(error).__name__}: {error})".splitlines()[0]
        ) from None


def frame_files(path: Path, who: str) -> list[Path]:
    """The image files that hold the frames of a video: of a folder those with an image's name, in the order of their
    names; else the one animated image. Raises InputError where there are none."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not files:
        raise InputError(f"{who}: video {path} holds no frames ({', '.join(FRAME_SUFFIXES)})")
    return files


def open_frames(path: Path, who: str) -> "list[Image]":
    """The frames of a video, in RGB: files of a folder, or the frames of one animated image.

    Raises InputError that names `who` and the file.
    """
    from PIL import Image, ImageSequence

    files = frame_files(path, who)
    if path.is_dir():
        frames = [open_image(file, who) for file in files]
    else:
        open_image(path, who)
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as film:
                if getattr(film, "n_frames", 1) * film.size[0] * film.size[1] > MAX_PIXELS:
                    raise InputError(f"{who}: video {path} has more than {MAX_PIXELS} pixels in all; shorten it")
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
        except InputError:
            raise
        except Exception as error:  # as in open_image
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{who}: video {path} cannot be decoded ({reason})") from None
    if len({frame.size for frame in frames}) > 1:
        raise InputError(f"{who}: the frames of video {path} differ in size")
    return frames


def load_samples(path: str | Path, *, limit: int | None = None, bad: list[str] | None = None) -> list[Sample]:
    """Read a JSONL sample file and check every sample: keys, ids, conversations, and that each image decodes.

    Args:
        path: one JSON object a line: {"id", "images": [paths]?, "video": path?, "prompt" or "conversation", "answer"?,
            "subset"?}; paths are relative to the file; `answer` is a string or a list of accepted strings.
        limit: read this many samples from the front.
        bad: where given, samples that cannot be used are left out, and why is put in here.

    Raises InputError with the file, the line or sample, and the reason.
    """
    source = Path(path)
    try:
        lines = source.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{source}: cannot read the samples ({error.strerror or error})") from None
    samples: list[Sample] = []
    line_of: dict[str, int] = {}
    digests: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(samples) >= limit:
            break
        if not line.strip():
            continue
        try:
            sample = _checked(line, f"{source}:{number}", source.parent, line_of, digests)
        except InputError as error:
            if bad is None:
                raise
            bad.append(str(error))
            continue
        line_of[sample.id] = number
        samples.append(sample)
    if not samples:
        raise InputError(f"{source}: no samples in it" + (f" that can be used (first: {bad[0]})" if bad else ""))
    return samples


def _checked(line: bytes, where: str, folder: Path, line_of: dict[str, int], digests: dict[Path, str]) -> Sample:
    """One line as a sample whose pictures decode; digests of new images are added to `digests`."""
    sample = _parse(line, where, folder)
    if sample.id in line_of:
        raise InputError(f"{where}: id {sample.id!r} is already used on line {line_of[sample.id]}")
    where = f"{where}: sample {sample.id}"
    for image in sample.images:
        if image not in digests:
            open_image(image, where)
            digests[image] = _sha256_of_file(image)
    if sample.video is not None:
        open_frames(sample.video, where)
    return digested(sample, digests)


def digested(sample: Sample, known: dict[Path, str] | None = None) -> Sample:
    """The sample with the digests of what its files hold now.

    Args:
        known: digests of image files that need not be read again.

    Raises InputError that names the sample where a file cannot be read.
    """
    try:
        images, frames = [(known or {}).get(image) or _sha256_of_file(image) for image in sample.images], []
        if sample.video is not None:
            frames = [_sha256_of_file(file) for file in frame_files(sample.video, f"sample {sample.id}")]
    except OSError as error:
        raise InputError(f"sample {sample.id}: cannot read {error.filename} ({error.strerror or error})") from None
    return replace(
        sample,
        digest=_sha256([sample.messages, sample.answers, sample.subset, images + frames]),
        content_digest=_sha256([sample.messages, images + frames]),
        picture_digests=(*images, *([_sha256(frames)] if frames else [])),
    )


def samples_digest(samples: Sequence[Sample]) -> str:
    """sha256 over ids, texts, answers and image bytes of a set, in order; where the files lie does not matter."""
    return hashlib.sha256(json.dumps([[sample.id, sample.digest] for sample in samples]).encode()).hexdigest()


def batches(
    samples: Sequence[Sample], processor: "Processor", family: "Family", batch_size: int
) -> Iterator[tuple[list[Sample], PromptBatch]]:
    """Preprocess samples into batches of equal V and similar length.

    The order is deterministic but not the given one; match results to samples by id. Raises InputError that names the
    sample.
    """
    for start in range(0, len(samples), batch_size * WINDOW_BATCHES):
        window = samples[start : start + batch_size * WINDOW_BATCHES]
        prepared = [_prepare(sample, processor, family) for sample in window]
        alike: dict[Any, list[int]] = {}
        for i, prompt in enumerate(prepared):
            shapes = tuple(sorted((name, array.shape[1:]) for name, array in prompt.model_inputs.items()))
            alike.setdefault((prompt.num_visual, shapes), []).append(i)
        for _, members in sorted(alike.items()):
            members.sort(key=lambda i: (prepared[i].input_ids.shape[1], i))
            for first in range(0, len(members), batch_size):
                chosen = members[first : first + batch_size]
                yield [window[i] for i in chosen], family.join([prepared[i] for i in chosen], processor.pad_token)


def _sha256_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prepare(sample: Sample, processor: "Processor", family: "Family") -> PromptBatch:
    try:
        text = family.prompt_text(processor, sample.conversation())
        return family.prepare(processor, [text], [sample.open_images()], [sample.open_videos()])
    except InputError as error:
        raise error if sample.id in str(error) else InputError(f"sample {sample.id}: {error}") from None


def _check_size(size: tuple[int, int], path: Path, who: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{who}: image {path} has {size[0]}×{size[1]} pixels, more than {MAX_PIXELS}; scale it down")


def _parse(line: bytes, where: str, folder: Path) -> Sample:
    """One line to a Sample whose images are not opened yet."""
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(data).__name__}")
    if "id" not in data or not isinstance(data["id"], str | int):
        raise InputError(f"{where}: needs an 'id' (a string, unique in the file)")
    where = f"{where}: sample {data['id']}"
    if "images" not in data and data.get("video") is None:
        raise InputError(f"{where}: needs 'images', a list of file names ([] for text alone), or 'video'")
    video, images = data.get("video"), data.get("images", [])
    if not isinstance(images, list) or not all(isinstance(item, str) and item for item in images):
        raise InputError(f"{where}: 'images' must be a list of file names relative to the sample file")
    if video is not None and not (isinstance(video, str) and video):
        raise InputError(f"{where}: 'video' must be the name of a folder of frames or of an animated image")
    if ("prompt" in data) == ("conversation" in data):
        raise InputError(f"{where}: needs exactly one of 'prompt' and 'conversation'")
    if "prompt" in data:
        if not isinstance(data["prompt"], str) or not data["prompt"].strip():
            raise InputError(f"{where}: 'prompt' must be a text")
        content = prompt_parts(data["prompt"], len(images), int(video is not None))
        messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": content},)
    else:
        messages = _messages(data["conversation"], where)
    for kind, given in (("image", len(images)), ("video", int(video is not None))):
        found = sum(part["type"] == kind for message in messages for part in message["content"])
        if given and not found:
            raise InputError(
                f'{where}: the conversation has no {kind} placeholder; put {{"type": "{kind}"}} into its content'
            )
        if found != given:
            raise InputError(f"{where}: {given} {kind}s but {found} {kind} placeholders")
    answers = data.get("answer", [])
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(item, str) for item in answers):
        raise InputError(f"{where}: 'answer' must be a text or a list of accepted texts")
    if not isinstance(data.get("subset"), str | None):
        raise InputError(f"{where}: 'subset' must be a text")
    return Sample(
        id=str(data["id"]),
        images=tuple(folder / item for item in images),
        video=None if video is None else folder / video,
        messages=messages,
        answers=tuple(answers),
        subset=data.get("subset"),
    )


def _messages(conversation: Any, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(conversation, list) or not conversation:
        raise InputError(f"{where}: 'conversation' must be a list of messages")
    messages = []
    for message in conversation:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InputError(f"{where}: each message needs a 'role' of {', '.join(_ROLES)} and a 'content'")
        content, parts = message.get("content"), []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if isinstance(part, dict) and part.get("type") in ("image", "video"):
                parts.append({"type": part["type"]})
            elif isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                parts.extend(_split(part["text"]))
            else:
                raise InputError(
                    f'{where}: a content part must be {{"type": "image"}}, {{"type": "video"}} or '
                    f'{{"type": "text", "text": …}}, found {part!r}'
                )
        if not parts:
            raise InputError(f"{where}: a message of role {message['role']} has no content")
        messages.append({"role": message["role"], "content": parts})
    if messages[-1]["role"] != "user":
        raise InputError(
            f"{where}: the conversation must end with a user message; the expected reply goes into 'answer'"
        )
    return tuple(messages)


def prompt_parts(prompt: str, num_images: int, num_videos: int) -> list[dict[str, str]]:
    """A prompt string as content parts; images and video go before the text where it has no placeholder for them."""
    missing = VIDEO_PLACEHOLDER * (num_videos * (VIDEO_PLACEHOLDER not in prompt))
    return _split(missing + PLACEHOLDER * (num_images * (PLACEHOLDER not in prompt)) + prompt)


def _split(text: str) -> list[dict[str, str]]:
    """A text with placeholders as content parts."""
    pieces = re.split(f"({PLACEHOLDER}|{VIDEO_PLACEHOLDER})", text)
    if len(pieces) == 1:
        return [{"type": "text", "text": text}]
    parts: list[dict[str, str]] = []
    for piece in pieces:
        if piece in (PLACEHOLDER, VIDEO_PLACEHOLDER):
            parts.append({"type": piece[1:-1]})
        elif piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts
