"""`generate`: one answer from a bundle, on any target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitcop.pipeline.console import Console
from vitcop.pipeline.preflight import open_bundle
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it cost.

    Args:
        text: decoded, special tokens left out.
        tokens: generated ids, the end token included where it was reached.
        finished: whether an end token was reached.
        visual_tokens: visual tokens of the unpruned model, then in each layer group.
        seconds: wall time of each part.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    visual_tokens: tuple[int, ...]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return vars(self)


def generate(
    bundle: str | Path,
    images: Sequence[str | Path],
    prompt: str,
    *,
    video: str | Path | None = None,
    target: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    console: Console | None = None,
) -> Answer:
    """Answer a prompt about images; greedily at temperature 0.

    Args:
        bundle: the bundle's folder.
        images: image files, in the order of their placeholders.
        prompt: the question; `<image>` (`<video>`) says where an image goes, before the text where it is left out.
        video: a folder of frames or an animated image.
        target, options: the runtime and its options.

    Raises InputError for an image that cannot be decoded, placeholders that do not match the images, and sampling
    settings out of range.
    """
    from vitcop.calibrate.data.samples import PLACEHOLDER, VIDEO_PLACEHOLDER, open_frames, open_image, prompt_parts
    from vitcop.calibrate.run.generation import Sampler
    from vitcop.export.runtimes import open_target

    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
    if temperature < 0:
        raise InputError(f"temperature must be 0 (greedy) or above, found {temperature}")
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed) if temperature > 0 else None
    opened = open_bundle(bundle, console or Console(quiet=True))
    pictures = [open_image(Path(image), "prompt") for image in images]
    films = [open_frames(Path(video), "prompt")] if video is not None else []
    if not prompt.strip():
        raise InputError("the prompt is empty")
    for word, given in ((PLACEHOLDER, len(pictures)), (VIDEO_PLACEHOLDER, len(films))):
        if prompt.count(word) not in (0, given):
            raise InputError(f"the prompt has {prompt.count(word)} {word} for {given} {word[1:-1]}{'s' * (given != 1)}")
    content = prompt_parts(prompt, len(pictures), len(films))
    engine = open_target(target)

    from vitcop.calibrate.models.loading import load_processor
    from vitcop.calibrate.run.generation import generate as generate_batch
    from vitcop.pipeline.preflight import family_in

    processor = load_processor(opened.processor_folder)
    family = family_in(opened.path)
    text = family.prompt_text(processor, [{"role": "user", "content": content}])
    batch = family.prepare(processor, [text], [pictures], [films])
    check_length(batch.input_ids.shape[1] + max_new_tokens, opened.path)
    runner = engine.runner(opened, dict(options or {}))
    ends = opened.manifest.architecture.eos_token_ids
    made = generate_batch(runner, batch, max_new_tokens=max_new_tokens, eos_ids=ends, sampler=sampler)
    tokens = made.tokens[0]
    counts = opened.schedule.group_counts(batch.num_visual)
    return Answer(
        text=processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
        tokens=tuple(tokens),
        finished=bool(made.finished[0]),
        visual_tokens=(batch.num_visual, *counts),
        seconds={**made.prefill.seconds, "decode": sum(made.decode_seconds)},
    )


def check_length(tokens: int, folder: Path) -> None:
    """Raises InputError where prompt and answer are longer than the positions that the model was made for."""
    from vitcop.calibrate.models.loading import load_config

    limit = getattr(load_config(folder).get_text_config(), "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise InputError(f"prompt and answer may have {tokens} tokens, the model takes {limit}; shorten one of them")
