"""What TensorRT-LLM's PyTorch backend has for each of our model families, as its source says (api.json names it)."""

from dataclasses import dataclass

MROPE_OUTSIDE = (
    "the stock input processor makes up a grid that is as near to a square as the number of embeddings allows, and "
    "counts positions on it as if that were the whole image"
)
ONE_AXIS = "the runtime counts positions itself, without gaps where tokens were dropped"
ONE_AXIS_MODEL = (
    "with one rotary axis the runtime counts positions itself, so a model package could honour no more than embeddings "
    "for the stock model do"
)
WINDOWS_IGNORED = (
    "sliding windows: the runtime's Qwen2 attention is given no window, so layers that slide in the schedule attend to "
    "the whole prompt there"
)
WINDOWS_OF_TOKENS = (
    "sliding windows: the runtime's Mistral attention counts them in tokens that are there, the schedule in places of "
    "the full prompt, so windows reach further back than they should by the number of dropped tokens between"
)
WINDOWS_UNKNOWN = (
    "sliding windows: what the runtime makes of them was not read for this language model; the schedule counts them in "
    "places of the full prompt"
)
_WINDOWS = {"qwen2": WINDOWS_IGNORED, "qwen2_5_vl_text": WINDOWS_IGNORED, "mistral": WINDOWS_OF_TOKENS}
"""By `model_type` of the language model: modeling_qwen.py and modeling_mistral.py of the table."""

NO_STOCK = "TensorRT-LLM has no model of this architecture; the embeddings are for a model of your own"


@dataclass(frozen=True, kw_only=True)
class Stock:
    """One family.

    Args:
        model: class of the stock model, or None where there is none.
        embedding_positions: how the positions of kept tokens come out with `multi_modal_embeddings`.
        package: our model package exists for it.
        no_package: why not, where it does not.
        one_image: how an image is processed depends on how many images its prompt has; the package prunes images one by
            one, so it takes prompts of one image alone.
    """

    model: str | None
    embedding_positions: str
    package: bool
    no_package: str = ""
    one_image: bool = False


STOCK = {
    "qwen2_5_vl": Stock(model="Qwen2_5_VLModel", embedding_positions=MROPE_OUTSIDE, package=True),
    "qwen3_vl": Stock(model="Qwen3VLModel", embedding_positions=MROPE_OUTSIDE, package=True),
    "llava_next": Stock(model="LlavaNextModel", embedding_positions=ONE_AXIS, package=False, no_package=ONE_AXIS_MODEL),
    # Tiles for an image that is alone in its prompt, none for one of several.
    "llava_onevision": Stock(
        model=None, embedding_positions=ONE_AXIS, package=False, no_package=NO_STOCK, one_image=True
    ),
}

_UNKNOWN = Stock(model=None, embedding_positions=ONE_AXIS, package=False, no_package=NO_STOCK)


def stock_of(family: str) -> Stock:
    """What the runtime has for a family of ours."""
    return STOCK.get(family, _UNKNOWN)


def windows_of(language_model: str) -> str:
    """What becomes of sliding windows, for the `model_type` of a language model."""
    return _WINDOWS.get(language_model, WINDOWS_UNKNOWN)
