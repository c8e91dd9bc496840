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
NO_STOCK = "TensorRT-LLM has no model of this architecture; the embeddings are for a model of your own"


@dataclass(frozen=True, kw_only=True)
class Stock:
    """One family.

    Args:
        model: class of the stock model, or None where there is none.
        embedding_positions: how the positions of kept tokens come out with `multi_modal_embeddings`.
        package: our model package exists for it.
        no_package: why not, where it does not.
    """

    model: str | None
    embedding_positions: str
    package: bool
    no_package: str = ""


STOCK = {
    "qwen2_5_vl": Stock(model="Qwen2_5_VLModel", embedding_positions=MROPE_OUTSIDE, package=True),
    "qwen3_vl": Stock(model="Qwen3VLModel", embedding_positions=MROPE_OUTSIDE, package=True),
    "llava_next": Stock(model="LlavaNextModel", embedding_positions=ONE_AXIS, package=False, no_package=ONE_AXIS_MODEL),
}

_UNKNOWN = Stock(model=None, embedding_positions=ONE_AXIS, package=False, no_package=NO_STOCK)


def stock_of(family: str) -> Stock:
    """What the runtime has for a family of ours."""
    return STOCK.get(family, _UNKNOWN)
