"""Sample sets: JSONL files of images, prompts and answers, checked whole before any model runs."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitcop.calibrate.prompt import PromptBatch, stack_prompts
from vitcop.plugins.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitcop.calibrate.families import Family

PLACEHOLDER = "<image>"
"""Where the image goes in a prompt string or a text; replaced by the model's own placeholder through its chat
template."""

MAX_PIXELS = 64_000_000
"""Largest image that is decoded. Beyond it a file is an accident or a decompression bomb."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that PIL may open here; each is decoded in process, by PIL alone."""

WINDOW_BATCHES = 16
"""Samples are sorted by length within windows of this many batches, which bounds the preprocessed images held in
memory."""

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its images.

    Args:
        id: unique in its set.
        images: image files, in the order of their placeholders.
        messages: the conversation, each {"role", "content": [{"type": "image"} | {"type": "text", "text"}]}.
        answers: accepted answers; empty where none is known.
        subset: name of the part that it belongs to (question type, task), for tables by part.
        digest: sha256 of the content: messages, answers, subset and image bytes.
        content_digest: sha256 of what the model sees: messages and image bytes. Two samples that share it are one
            question, whatever their answers say.
    """

    id: str
    images: tuple[Path, ...]
    messages: tuple[dict[str, Any], ...]
    answers: tuple[str, ...] = ()
    subset: str | None = None
    digest: str = ""
    content_digest: str = ""

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

    def open_images(self) -> "list[Image]":
        """The images, decoded, upright (EXIF orientation applied, as transformers does) and in RGB."""
        return [open_image(path, f"sample {self.id}") for path in self.images]


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


def load_samples(path: str | Path, *, limit: int | None = None) -> list[Sample]:
    """Read a JSONL sample file and check every sample: keys, ids, conversations, and that each image decodes.

    Args:
        path: one JSON object a line: {"id", "images": [paths], "prompt" or "conversation", "answer"?, "subset"?}; image
            paths are relative to the file; `answer` is a string or a list of accepted strings.
        limit: read this many samples from the front.

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
        sample = _parse(line, f"{source}:{number}", source.parent)
        if sample.id in line_of:
            raise InputError(f"{source}:{number}: id {sample.id!r} is already used on line {line_of[sample.id]}")
        line_of[sample.id] = number
        for image in sample.images:
            if image not in digests:
                open_image(image, f"{source}:{number}: sample {sample.id}")
                with image.open("rb") as stream:
                    digests[image] = hashlib.file_digest(stream, "sha256").hexdigest()
        images = [digests[image] for image in sample.images]
        samples.append(
            replace(
                sample,
                digest=_sha256([sample.messages, sample.answers, sample.subset, images]),
                content_digest=_sha256([sample.messages, images]),
            )
        )
    if not samples:
        raise InputError(f"{source}: no samples in it")
    return samples


def samples_digest(samples: Sequence[Sample]) -> str:
    """sha256 over ids, texts, answers and image bytes of a set, in order; where the files lie does not matter."""
    return hashlib.sha256(json.dumps([[sample.id, sample.digest] for sample in samples]).encode()).hexdigest()


def batches(
    samples: Sequence[Sample], processor: Any, family: "Family", batch_size: int
) -> Iterator[tuple[list[Sample], PromptBatch]]:
    """Preprocess samples into batches of equal V and similar length.

    The order is deterministic but not the given one; match results to samples by id. Raises InputError that names the
    sample.
    """
    tokenizer = processor.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    for start in range(0, len(samples), batch_size * WINDOW_BATCHES):
        window = samples[start : start + batch_size * WINDOW_BATCHES]
        prepared = [_prepare(sample, processor, family) for sample in window]
        by_count: dict[int, list[int]] = {}
        for i, prompt in enumerate(prepared):
            by_count.setdefault(prompt.num_visual, []).append(i)
        for _, members in sorted(by_count.items()):
            members.sort(key=lambda i: (prepared[i].input_ids.shape[1], i))
            for first in range(0, len(members), batch_size):
                chosen = members[first : first + batch_size]
                yield [window[i] for i in chosen], stack_prompts([prepared[i] for i in chosen], pad)


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prepare(sample: Sample, processor: Any, family: "Family") -> PromptBatch:
    try:
        return family.prepare(processor, [family.prompt_text(processor, sample.conversation())], [sample.open_images()])
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
    if data.get("video") is not None:
        raise InputError(f"{where}: video is not supported; give images")
    images = data.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(item, str) and item for item in images):
        raise InputError(f"{where}: needs 'images', a list of file names relative to the sample file")
    if ("prompt" in data) == ("conversation" in data):
        raise InputError(f"{where}: needs exactly one of 'prompt' and 'conversation'")
    if "prompt" in data:
        if not isinstance(data["prompt"], str) or not data["prompt"].strip():
            raise InputError(f"{where}: 'prompt' must be a text")
        text = data["prompt"] if PLACEHOLDER in data["prompt"] else PLACEHOLDER + data["prompt"]
        messages = ({"role": "user", "content": _split(text)},)
    else:
        messages = _messages(data["conversation"], where)
    found = sum(part["type"] == "image" for message in messages for part in message["content"])
    if found == 0:
        raise InputError(
            f'{where}: the conversation has no image placeholder; put {{"type": "image"}} into its content'
        )
    if found != len(images):
        raise InputError(f"{where}: {len(images)} images but {found} image placeholders")
    answers = data.get("answer", [])
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not all(isinstance(item, str) for item in answers):
        raise InputError(f"{where}: 'answer' must be a text or a list of accepted texts")
    if not isinstance(data.get("subset"), str | None):
        raise InputError(f"{where}: 'subset' must be a text")
    return Sample(
        id=str(data["id"]),
        images=tuple(folder / item for item in images),
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
            if isinstance(part, dict) and part.get("type") == "image":
                parts.append({"type": "image"})
            elif isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                parts.extend(_split(part["text"]))
            else:
                raise InputError(
                    f'{where}: a content part must be {{"type": "image"}} or {{"type": "text", "text": …}}, '
                    f"found {part!r}"
                )
        if not parts:
            raise InputError(f"{where}: a message of role {message['role']} has no content")
        messages.append({"role": message["role"], "content": parts})
    if messages[-1]["role"] != "user":
        raise InputError(
            f"{where}: the conversation must end with a user message; the expected reply goes into 'answer'"
        )
    return tuple(messages)


def _split(text: str) -> list[dict[str, str]]:
    """A text with placeholders as content parts."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(text.split(PLACEHOLDER)):
        if i:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip() if PLACEHOLDER in text else piece})
    return parts
