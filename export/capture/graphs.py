"""The three graphs of a vision-language model, captured by torch.export from the model's own modules.

The names of inputs and outputs are part of the product: runners and plugins rely on them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vitcop.calibrate.families import Family
from vitcop.export.capture.attention import onnx_attention
from vitcop.export.capture.token_graph import GraphInput, TokenGraph, flat_module, trace

_EXAMPLE_BATCH, _EXAMPLE_TEXT, _EXAMPLE_PAST = 2, 24, 40


class _KeyValues:
    """The cache of the captured graphs: joins the past (if any) with the present, and remembers both layer by layer."""

    def __init__(self, past: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.past = past
        self.present: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        assert layer_idx == len(self.present), "layers update the cache in order"
        if self.past is not None:
            past_keys, past_values = self.past[layer_idx]
            keys, values = torch.cat((past_keys, keys), dim=2), torch.cat((past_values, values), dim=2)
        self.present.append((keys, values))
        return keys, values

    def get_seq_length(self, *_: object) -> int:
        return 0


class _Graph(nn.Module):
    """Base of the graphs: flat positional inputs in, a dict of named tensors out."""

    def __init__(self, model: nn.Module, family: Family, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.family, self.names = model, family, names

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        return self.run(**dict(zip(self.names, inputs, strict=True)))

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        raise AssertionError("each graph has its own")

    def decoder(self, hidden: Tensor, mask: Tensor, position_ids: Tensor, cache: _KeyValues) -> dict[str, Tensor]:
        """Run the decoder stack; only the last position is turned into logits."""
        output = self.family.language_model(self.model)(
            inputs_embeds=hidden, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        results = {"logits": self.family.lm_head(self.model)(output.last_hidden_state[:, -1:])}
        for layer, (keys, values) in enumerate(cache.present):
            results |= {f"present_key_{layer}": keys, f"present_value_{layer}": values}
        return results


class _Vision(_Graph):
    def run(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"visual_features": self.family.visual_features(self.model, pixel_values)}


class _Prefill(_Graph):
    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        visual_features: Tensor,
        visual_index: Tensor,
    ) -> dict[str, Tensor]:
        embedded = self.family.language_model(self.model).embed_tokens(input_ids)
        index = visual_index.unsqueeze(2).expand(-1, -1, embedded.shape[2])
        hidden = embedded.scatter(1, index, visual_features.to(embedded.dtype))
        # The mask comes from the padding mask and the order of the sequence alone, so the rewrite can rebuild it from
        # what is kept. The diagonal is always allowed: a padded query that may look nowhere would turn into NaN.
        order = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        causal = order.unsqueeze(0) <= order.unsqueeze(1)
        diagonal = order.unsqueeze(0) == order.unsqueeze(1)
        real = attention_mask.to(torch.bool).unsqueeze(1).unsqueeze(1)
        mask = torch.logical_or(torch.logical_and(causal, real), diagonal)
        return self.decoder(hidden, mask, position_ids, _KeyValues())


class _Decode(_Graph):
    def run(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask_0: Tensor, **past: Tensor
    ) -> dict[str, Tensor]:
        pairs = [(past[f"past_key_{i}"], past[f"past_value_{i}"]) for i in range(len(past) // 2)]
        hidden = self.family.language_model(self.model).embed_tokens(input_ids)
        mask = attention_mask_0.to(torch.bool).unsqueeze(1).unsqueeze(1)
        return self.decoder(hidden, mask, position_ids, _KeyValues(pairs))


def capture_vision(model: nn.Module, family: Family) -> TokenGraph:
    """`pixel_values [B,3,h,w]` -> `visual_features [B,N,H]`: vision tower and projector."""
    pixels = torch.zeros(_EXAMPLE_BATCH, *family.vision_shape(model.config), dtype=model.dtype)
    return _capture(_Vision, model, family, {"pixel_values": GraphInput(pixels, {0: "batch"})}, {})


def capture_prefill(model: nn.Module, family: Family, *, num_visual: int, min_visual: int = 2) -> TokenGraph:
    """The prompt through the language model (names and shapes: see the class of that name and docs/graphs.md).

    Args:
        num_visual: visual tokens of the example; the axis is dynamic.
        min_visual: least V that the graph must take.
    """
    text = model.config.get_text_config()
    length, head = num_visual + _EXAMPLE_TEXT, {0: "batch", 1: "sequence"}
    ids = torch.zeros(_EXAMPLE_BATCH, length, dtype=torch.int64)
    visual = torch.arange(num_visual).expand(_EXAMPLE_BATCH, num_visual).contiguous()
    inputs = {
        "input_ids": GraphInput(ids, head),
        "attention_mask": GraphInput(torch.ones_like(ids), head),
        "position_ids": GraphInput(torch.zeros_like(ids), head),
        "visual_features": GraphInput(
            torch.zeros(_EXAMPLE_BATCH, num_visual, text.hidden_size, dtype=model.dtype), {0: "batch", 1: "visual"}
        ),
        "visual_index": GraphInput(visual, {0: "batch", 1: "visual"}),
    }
    return _capture(_Prefill, model, family, inputs, {"visual": min_visual, "sequence": min_visual + 2})


def capture_decode(model: nn.Module, family: Family) -> TokenGraph:
    """One token through the language model, with one KV length for all layers (`attention_mask_0 [B,P+1]`)."""
    text = model.config.get_text_config()
    heads, head_dim = (
        text.num_key_value_heads,
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    token = torch.zeros(_EXAMPLE_BATCH, 1, dtype=torch.int64)
    mask = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_PAST + 1, dtype=torch.int64)
    inputs = {
        "input_ids": GraphInput(token, {0: "batch"}),
        "position_ids": GraphInput(torch.zeros_like(token), {0: "batch"}),
        "attention_mask_0": GraphInput(mask, {0: "batch", 1: "present_0"}),
    }
    for layer in range(family.num_layers(model.config)):
        for kind in ("key", "value"):
            past = torch.zeros(_EXAMPLE_BATCH, heads, _EXAMPLE_PAST, head_dim, dtype=model.dtype)
            inputs[f"past_{kind}_{layer}"] = GraphInput(past, {0: "batch", 2: "past_0"})
    return _capture(_Decode, model, family, inputs, {"past_0": 2, "present_0": 3})


def _capture(
    graph: type[_Graph], model: nn.Module, family: Family, inputs: dict[str, GraphInput], minimum: dict[str, int]
) -> TokenGraph:
    with onnx_attention(model), torch.no_grad():
        # The empty table decomposes nothing further, but makes the trace functional: no views, detaches or grad
        # switches.
        program = trace(graph(model, family, tuple(inputs)), inputs, minimum).run_decompositions({})
    captured = TokenGraph(program=program, module=flat_module(program), inputs=inputs, outputs=[], minimum=minimum)
    captured.outputs = [_key(path) for path, _ in pytree.tree_flatten_with_path(_output_tree(program))[0]]
    for node, name in zip((n for n in captured.module.graph.nodes if n.op == "placeholder"), inputs, strict=True):
        node.name = node.target = name
    captured.module.recompile()
    return captured


def _output_tree(program: Any) -> Any:
    spec = program.call_spec.out_spec
    return pytree.tree_unflatten(list(range(spec.num_leaves)), spec)


def _key(path: tuple[Any, ...]) -> str:
    return path[0].key
