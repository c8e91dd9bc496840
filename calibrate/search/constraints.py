"""What a search is held to, and what a set of drops costs in the unit of that. No torch.

| kind | value | cost of a set of drops |
|---|---|---|
| budget | mean share of visual tokens over the layers | tokens in all layers together, within one a layer |
| flops | FLOPs of a prefill (`schedule.cost`) | the same |
| kv_bytes | bytes of the KV cache after it | the same |
| latency_ms | milliseconds of a prefill on a target | the same, as its cost table says |
| max_loss | nats, mean over the samples | whatever the caller wants least of |
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vitcop.calibrate.schedule.budget import check_budget
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice
from vitcop.calibrate.schedule.cost import DecoderShape, layer_flops
from vitcop.plugins.errors import InputError

ConstraintKind = Literal["budget", "flops", "kv_bytes", "latency_ms", "max_loss"]


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Cost of a set of drops: each decoder layer by the visual tokens in it, each drop by those that it finds.

    Args:
        num_visual: V, tokens of the unpruned model.
        layer: cost of one decoder layer that has this many visual tokens.
        drop: cost of a choice that finds this many; None where drops cost nothing.
        fixed: cost of everything else.
    """

    num_layers: int
    num_visual: int
    layer: Callable[[int], float]
    drop: Callable[[Choice, int], float] | None = None
    fixed: float = 0.0

    def of(self, choices: Sequence[Choice]) -> float:
        """Of choices of ascending layers and falling keep counts, which may be none; correctly rounded."""
        terms, count, start = [self.fixed], self.num_visual, AT_INPUT
        for choice in choices:
            terms += [(choice.layer - start) * self.layer(count)]
            terms += [self.drop(choice, count)] if self.drop else []
            count, start = choice.keep, choice.layer
        return math.fsum([*terms, (self.num_layers - start) * self.layer(count)])


def token_cost(num_layers: int, num_visual: int) -> CostModel:
    """Visual tokens in all layers together."""
    return CostModel(num_layers=num_layers, num_visual=num_visual, layer=lambda count: count)


def flops_cost(shape: DecoderShape, num_layers: int, num_visual: int, text_tokens: int) -> CostModel:
    """FLOPs as `prefill_cost` counts them, where drops are free."""
    return CostModel(
        num_layers=num_layers,
        num_visual=num_visual,
        layer=lambda count: layer_flops(shape, count + text_tokens),
        fixed=2 * shape.hidden * shape.vocab,
    )


def kv_cost(
    shape: DecoderShape, num_layers: int, num_visual: int, text_tokens: int, *, bytes_per_value: int = 2
) -> CostModel:
    """Bytes as `prefill_cost` counts them."""
    a_token = 2 * shape.num_kv_heads * shape.head_dim * bytes_per_value
    return CostModel(num_layers=num_layers, num_visual=num_visual, layer=lambda count: (count + text_tokens) * a_token)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One constraint. Raises InputError where its value makes no sense."""

    kind: ConstraintKind
    value: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(ConstraintKind):
            raise InputError(f"constraint {self.kind!r} is not one of {', '.join(get_args(ConstraintKind))}")
        if self.kind == "budget":
            check_budget(self.value)
        elif not (math.isfinite(self.value) and self.value > 0):
            raise InputError(f"{self.kind} {self.value}: must be a number above 0")

    @property
    def limits_loss(self) -> bool:
        """Whether cost is what is made least."""
        return self.kind == "max_loss"

    def limit(self, cost: CostModel) -> float:
        """The greatest loss, or the greatest cost in the unit of `cost`."""
        if self.kind != "budget":
            return self.value
        # Exactly one token above is met; a product of floats may round to a little less.
        return (self.value * cost.num_visual + 1) * cost.num_layers * (1 + 1e-12)

    def shown(self, amount: float, cost: CostModel) -> str:
        """A cost, or a loss, as the user would give it."""
        if self.kind == "budget":
            return f"{amount / (cost.num_layers * cost.num_visual):.4f}"
        return f"{amount:.0f}" if self.kind in ("flops", "kv_bytes") else f"{amount:.4g}"
