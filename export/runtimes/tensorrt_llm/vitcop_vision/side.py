"""From a prompt and its images to pruned embeddings, the token ids that stand for them, and their positions.

Images are pruned one by one: what stays of an image depends on nothing but the image, so that caches keyed by images
hold. Kept tokens keep the positions that they have in the full prompt.

Shape letters: V visual tokens of an image, K embeddings of it, S tokens of the pruned prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from vitcop_vision.host.calibrate.models.processor import Processor, read_processor
from vitcop_vision.pictures import picture_of
from vitcop_vision.stage import Settings, VisionStage

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class PrunedImage:
    """One image.

    Args:
        embeddings: [K,H·planes] of the graph's float type.
        kept: int64 [K], ascending: the visual token of the image at whose place each stands.
        num_visual: V.
    """

    embeddings: np.ndarray
    kept: np.ndarray
    num_visual: int


@dataclass(frozen=True, kw_only=True)
class PrunedPrompt:
    """One prompt.

    Args:
        token_ids: S ids, the placeholder once for each embedding.
        images: in the order of their placeholders.
        position_ids: int64 [S], or [3,S] (temporal, height, width) for models with three rotary axes: of each token in
            the full prompt.
        position_delta: position of the first generated token, minus S.
    """

    token_ids: list[int]
    images: tuple[PrunedImage, ...]
    position_ids: np.ndarray
    position_delta: int

    @property
    def embeddings(self) -> list[np.ndarray]:
        """Of each image."""
        return [image.embeddings for image in self.images]


class VisionSide:
    """The vision side of one model.

    Args:
        folder: where graph, weights, settings and processor lie; by default beside this file.
        device: "cpu" or "cuda", where the graph runs.
        threads: inside one operation on the CPU, or None for ONNX Runtime's own choice.
    """

    def __init__(self, folder: Path = FOLDER, *, device: str = "cpu", threads: int | None = None) -> None:
        from transformers import AutoConfig

        self.settings = Settings.load(folder)
        module = import_module(f"vitcop_vision.host.calibrate.models.families.{self.settings.family}")
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.family = getattr(module, self.settings.family_class)(config)
        self.processor = _processor(folder)
        self.stage = VisionStage(folder, self.settings, device=device, threads=threads)

    @property
    def placeholder(self) -> str:
        """What stands in a prompt text for an image."""
        return self.family.placeholders(self.processor)[0]

    def image(self, image: Any) -> PrunedImage:
        """Prune one image (see `picture_of`)."""
        return self._prune(*self._process(image))

    def prompt(self, text: str, images: Sequence[Any]) -> PrunedPrompt:
        """Prune the images of a prompt.

        Args:
            text: the prompt with one placeholder for each image.

        Raises ValueError where placeholders and images differ in number, and for several images where the model
        processes an image otherwise when it is alone.
        """
        pieces = text.split(self.placeholder)
        if len(pieces) != len(images) + 1:
            raise ValueError(f"the prompt has {len(pieces) - 1} {self.placeholder} for {len(images)} images")
        if len(images) > 1 and self.settings.one_image:
            raise ValueError(
                f"the prompt has {len(images)} images: this model processes an image otherwise where it is alone, and "
                "this package prunes images one by one; send one image"
            )
        processed = [self._process(image) for image in images]
        pruned = tuple(self._prune(*each) for each in processed)
        full = "".join(piece + word for piece, word in zip(pieces, [*(word for word, _ in processed), ""], strict=True))
        ids = self.processor.token_ids(full)
        batch = self.family.batch([ids], self.processor.pad_token, [inputs for _, inputs in processed])
        kept, start = [np.empty(0, np.int64)], 0
        for image in pruned:
            kept.append(start + image.kept)
            start += image.num_visual
        short = batch.after_drop(np.concatenate(kept)[None])
        positions, following = short.position_ids[0], batch.next_position[0]
        if self.family.num_axes > 1:  # the place in the prompt comes first, the axes behind it
            positions, following = positions[:, 1:].T, following[1:].max()
        return PrunedPrompt(
            token_ids=short.input_ids[0].tolist(),
            images=pruned,
            position_ids=np.ascontiguousarray(positions),
            position_delta=int(following) - short.input_ids.shape[1],
        )

    def _process(self, image: Any) -> tuple[str, dict[str, np.ndarray]]:
        return self.family.process(self.processor, self.placeholder, [picture_of(image)], [])

    def _prune(self, word: str, inputs: dict[str, np.ndarray]) -> PrunedImage:
        alone = self.family.batch([self.processor.token_ids(word)], self.processor.pad_token, [inputs])
        count = self.settings.count(alone.num_visual)
        embeddings, kept = self.stage.run(alone.vision_inputs)
        assert len(kept) == count, f"the graph kept {len(kept)} of {alone.num_visual} tokens, not {count}"
        return PrunedImage(embeddings=embeddings, kept=kept, num_visual=alone.num_visual)


def _processor(folder: Path) -> Processor:
    from transformers import AutoTokenizer

    # Not from the top: without torchvision older releases put something there that only says so.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    own = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **own)
    # Pillow's resizing, as in calibration: torchvision's rounds differently.
    return read_processor(folder, tokenizer, AutoImageProcessor.from_pretrained(folder, backend="pil", **own))
