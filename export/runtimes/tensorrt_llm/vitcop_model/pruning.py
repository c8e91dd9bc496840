"""What the input processors of all models share: prompts whose images are pruned before the language model sees them.

The three-axis position ids of kept tokens are those of the full prompt, and generation goes on from the full prompt:
TensorRT-LLM takes both from the request (`mrope_config`), as it does for the stock models.
"""

import os
from typing import Any

import torch
from vitcop_vision.pictures import picture_of
from vitcop_vision.side import PrunedPrompt, VisionSide

DEVICE = "VITCOP_VISION_DEVICE"
"""Environment variable: "cpu" or "cuda", where the vision graph runs; cpu where it is not set."""


class PruningInputProcessor:
    """Put before a stock input processor of a model with three rotary axes in the bases of a class."""

    # Of the stock input processor.
    tokenizer: Any
    dtype: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._side = VisionSide(device=os.environ.get(DEVICE, "cpu"))

    def __call__(self, inputs: Any, sampling_params: Any) -> tuple[list[int], dict[str, Any] | None]:
        """Token ids and multimodal data of one request, whether its prompt comes as text or as ids."""
        if inputs.get("prompt") is None and inputs.get("prompt_token_ids") is not None:
            if not any(map(_listed, (inputs.get("multi_modal_data") or {}).values())):
                return list(inputs["prompt_token_ids"]), None
            # Placeholders are expanded in the text, as the stock processors do; special tokens come through, but ids
            # that no encoding of the text would give come back as those that it gives.
            inputs = {**inputs, "prompt": self.tokenizer.decode(inputs["prompt_token_ids"])}
        return self.call_with_text_prompt(inputs, sampling_params)

    @torch.inference_mode()
    def call_with_text_prompt(self, inputs: Any, sampling_params: Any) -> tuple[list[int], dict[str, Any] | None]:
        """Token ids and multimodal data of one request.

        Raises ValueError for a video, which is not pruned here, and for settings of the image processor.
        """
        media = inputs.get("multi_modal_data") or {}
        if any(_listed(items) for kind, items in media.items() if kind != "image"):
            raise ValueError("this package prunes images; it takes no video and no audio")
        images = _listed(media.get("image"))
        if not images:
            return self._side.processor.token_ids(inputs["prompt"]), None
        if inputs.get("mm_processor_kwargs"):
            raise ValueError(
                f"mm_processor_kwargs {inputs['mm_processor_kwargs']}: this package processes images as its schedule "
                "was made for, and takes no other settings"
            )
        pruned = self._side.prompt(inputs["prompt"], [picture_of(image) for image in images])
        return pruned.token_ids, {"multimodal_data": self.multimodal_data(pruned)}

    def multimodal_data(self, pruned: PrunedPrompt) -> dict[str, Any]:
        """What the model reads of a request: embeddings instead of pixels, and positions."""
        embeddings = [torch.from_numpy(each).to(self.dtype) for each in pruned.embeddings]
        return {
            "multimodal_embedding": embeddings,
            "mrope_config": {
                "mrope_position_ids": torch.from_numpy(pruned.position_ids)[:, None],
                "mrope_position_deltas": torch.tensor([[pruned.position_delta]], dtype=torch.int32),
            },
        }

    def attach_multimodal_embeddings(self, inputs: Any, multimodal_embedding: Any, sampling_params: Any) -> Any:
        """Embeddings from outside would come without their positions."""
        raise NotImplementedError("send images: this package prunes them itself, so that their positions are right")

    def get_num_tokens_per_image(self, *, image: Any, **kwargs: Any) -> int:
        """Placeholders of an image after pruning; hashing for KV reuse and chunked prefill count with it."""
        # The next in line is the stock input processor.
        return self._side.settings.count(super().get_num_tokens_per_image(image=image, **kwargs))  # type: ignore[misc]

    def get_num_tokens_per_video(self, *, video: Any, **kwargs: Any) -> int:
        """Raises ValueError: see `call_with_text_prompt`."""
        raise ValueError("this package prunes images; it takes no video")


def _listed(items: Any) -> list[Any]:
    """The items of one kind of media, of which a request may give a single one without a list."""
    if items is None:
        return []
    return list(items) if isinstance(items, (list, tuple)) else [items]
