"""The three graphs of a vision-language model, captured by torch.export from the model's own modules.

The names of inputs and outputs are part of the product: runners and plugins rely on them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vitcop.calibrate.models.families import Family
from vitcop.calibrate.models.families.base import InputSpec
from vitcop.calibrate.run.caches import cache_argument
from vitcop.calibrate.run.device_inputs import places_of
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle.contract import plane_names, score_inputs
from vitcop.export.capture.attention import onnx_attention
from vitcop.export.capture.rows import GATHER_ROWS, PUT_ROWS
from vitcop.export.capture.token_graph import GraphInput, TokenGraph, flat_module, trace

_EXAMPLE_BATCH, _EXAMPLE_TEXT, _EXAMPLE_PAST = 2, 24, 40
EXAMPLE_VISUAL = 14
"""Visual tokens of the vision graph's example, where the schedule needs no more."""

_AXIS_NAMES = {"B": "batch", "V": "visual", "T": "tiles"}
# Sizes that differ from each other and from what models have, so that no two axes are taken for one.
_EXAMPLE_SIZES = {"B": _EXAMPLE_BATCH, "T": 3, "units": 10, "images": 3, "slots": 5, "windows": 6}


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

    def run(self, *args: Any, **inputs: Any) -> dict[str, Tensor]:
        raise AssertionError("each graph has its own")

    def decoder(
        self, hidden: Tensor, mask: Tensor, back: Tensor | None, position_ids: Tensor, cache: _KeyValues
    ) -> dict[str, Tensor]:
        """Run the decoder stack; only the last position is turned into logits.

        Args:
            mask: bool [B,1,Q,K], what a query may see.
            back: int32 [B,1,Q,K], how many places behind the query a key stands; where layers have sliding windows.
        """
        slid = mask if back is None else torch.logical_and(mask, back < self.family.window)
        masks = {"full_attention": mask, "sliding_attention": slid}
        output = self.family.language_model(self.model)(
            inputs_embeds=hidden,
            attention_mask=masks if back is not None and self.family.layer_types else slid,
            position_ids=self.family.rotary_ids(position_ids),
            **cache_argument(cache),
            use_cache=True,
        )
        results = {"logits": self.family.lm_head(self.model)(output.last_hidden_state[:, -1:])}
        for layer, (keys, values) in enumerate(cache.present):
            results |= {f"present_key_{layer}": keys, f"present_value_{layer}": values}
        return results


class _Vision(_Graph):
    def __init__(self, watched: bool, scales: list[float], *args: Any) -> None:
        super().__init__(*args)
        self.watched, self.scales = watched, scales

    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        seen = self.family.encode(self.model, inputs)
        self.scales.append(seen.scale)
        planes = self.family.assemble(self.model, seen.rows, inputs)
        outputs = dict(zip(plane_names(self.family.num_planes), planes, strict=True))
        if not self.watched:
            return outputs
        # What the scores of a vision stage read; VisionStagePass takes these outputs away again.
        watched = {
            "patch_queries": seen.queries,
            "patch_keys": seen.keys,
            "class_query": seen.class_query,
            "class_keys": seen.class_keys,
        }
        return outputs | {name: value for name, value in watched.items() if value is not None}


class _Prefill(_Graph):
    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        visual_features: Tensor,
        visual_index: Tensor,
        **planes: Tensor,
    ) -> dict[str, Tensor]:
        embedded = self.family.language_model(self.model).embed_tokens(input_ids)
        hidden = PUT_ROWS(embedded, visual_index, visual_features.to(embedded.dtype))
        # The mask comes from the padding mask and the order of the sequence alone, so the rewrite can rebuild it from
        # what is kept. The diagonal is always allowed: a padded query that may look nowhere would turn into NaN.
        order = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        causal = order.unsqueeze(0) <= order.unsqueeze(1)
        diagonal = order.unsqueeze(0) == order.unsqueeze(1)
        real = attention_mask.to(torch.bool).unsqueeze(1).unsqueeze(1)
        mask = torch.logical_or(torch.logical_and(causal, real), diagonal)
        with self._adding(list(planes.values()), visual_index):
            places = places_of(position_ids)
            back = None if self.family.window is None else _places_back(places, places)
            return self.decoder(hidden, mask, back, position_ids, _KeyValues())

    @contextmanager
    def _adding(self, planes: list[Tensor], index: Tensor) -> Iterator[None]:
        """Let the first layers add their feature plane to the visual tokens (DeepStack), by index instead of by a mask,
        which torch.export could not trace."""

        def add(plane: Tensor) -> Callable[..., Tensor]:
            return lambda layer, args, output: PUT_ROWS(
                output, index, GATHER_ROWS(output, index) + plane.to(output.dtype)
            )

        layers = self.family.language_model(self.model).layers
        hooks = [layers[i].register_forward_hook(add(plane)) for i, plane in enumerate(planes)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Decode(_Graph):
    def run(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask_0: Tensor,
        key_places_0: Tensor | None = None,
        **past: Tensor,
    ) -> dict[str, Tensor]:
        pairs = [(past[f"past_key_{i}"], past[f"past_value_{i}"]) for i in range(len(past) // 2)]
        hidden = self.family.language_model(self.model).embed_tokens(input_ids)
        mask = attention_mask_0.to(torch.bool).unsqueeze(1).unsqueeze(1)
        back = None if key_places_0 is None else _places_back(key_places_0[:, -1:], key_places_0)
        return self.decoder(hidden, mask, back, position_ids, _KeyValues(pairs))


def _places_back(queries: Tensor, keys: Tensor) -> Tensor:
    """[B,Q], [B,K] -> int32 [B,1,Q,K]: how many places behind each query each key stands."""
    return (queries.to(torch.int32).unsqueeze(2) - keys.to(torch.int32).unsqueeze(1)).unsqueeze(1)


def capture_vision(
    model: nn.Module, family: Family, *, watched: bool, num_visual: int = EXAMPLE_VISUAL
) -> tuple[TokenGraph, float]:
    """The family's encoder and token inputs -> `visual_features [B,V,H]` (and `deepstack_i`): vision tower and
    projector.

    Args:
        watched: add the outputs `patch_queries`, `patch_keys` and, with a class token, `class_query` and `class_keys`,
            from which a vision stage is made.
        num_visual: visual tokens of the example; the axis is dynamic.

    Returns the graph and the scale of the attention logits of the watched layer.
    """
    specs = family.encoder_inputs() | family.token_inputs()
    inputs = {name: example_input(spec, model.dtype, num_visual) for name, spec in specs.items()}
    scales: list[float] = []
    graph = _capture(partial(_Vision, watched, scales), model, family, inputs, {})
    return graph, scales[0]


def example_tables(schedule: Schedule, family: Family, num_visual: int = EXAMPLE_VISUAL) -> dict[str, GraphInput]:
    """Examples of what score and clusters of a vision stage read, for V visual tokens as in `capture_vision`."""
    specs = score_inputs(schedule, family.patches_per_token)
    return {
        spec.name: example_input(
            InputSpec(spec.kind, tuple(int(axis) if axis.isdigit() else axis.rstrip("0") for axis in spec.axes)),
            torch.float32,
            num_visual,
        )
        for spec in specs
    }


def example_input(spec: InputSpec, dtype: torch.dtype, num_visual: int = EXAMPLE_VISUAL) -> GraphInput:
    """An example of a vision graph's input; every axis that varies is dynamic."""
    known = _EXAMPLE_SIZES | {"V": num_visual}
    sizes = [size if isinstance(size, int) else known[size] for size in spec.axes]
    kind = {"int64": torch.int64, "float": dtype, "float32": torch.float32}[spec.kind]
    axes = {i: axis_name(size) for i, size in enumerate(spec.axes) if isinstance(size, str)}
    return GraphInput(torch.zeros(sizes, dtype=kind), axes)


def axis_name(letter: str) -> str:
    """Name in the graph of an axis that a family writes as a letter."""
    return _AXIS_NAMES.get(letter, letter)


def capture_prefill(model: nn.Module, family: Family, *, num_visual: int, min_visual: int = 2) -> TokenGraph:
    """The prompt through the language model (names and shapes: see the class of that name and docs/graphs.md).

    Args:
        num_visual: visual tokens of the example; the axis is dynamic.
        min_visual: least V that the graph must take.
    """
    length, head = num_visual + _EXAMPLE_TEXT, {0: "batch", 1: "sequence"}
    ids = torch.zeros(_EXAMPLE_BATCH, length, dtype=torch.int64)
    features = (_EXAMPLE_BATCH, num_visual, model.config.get_text_config().hidden_size)
    visual = torch.arange(num_visual).expand(_EXAMPLE_BATCH, num_visual).contiguous()
    inputs = {
        "input_ids": GraphInput(ids, head),
        "attention_mask": GraphInput(torch.ones_like(ids), head),
        "position_ids": GraphInput(_positions(ids, family), head),
        "visual_features": GraphInput(torch.zeros(features, dtype=model.dtype), {0: "batch", 1: "visual"}),
        "visual_index": GraphInput(visual, {0: "batch", 1: "visual"}),
    }
    for name in plane_names(family.num_planes)[1:]:
        inputs[name] = GraphInput(torch.zeros(features, dtype=model.dtype), {0: "batch", 1: "visual"})
    return _capture(_Prefill, model, family, inputs, {"visual": min_visual, "sequence": min_visual + 2})


def capture_decode(model: nn.Module, family: Family) -> TokenGraph:
    """One token through the language model, with one KV length for all layers (`attention_mask_0 [B,P+1]`).

    Where layers have sliding windows, `key_places_0 [B,P+1]` tells where each token stood in its full prompt.
    """
    text = model.config.get_text_config()
    heads, head_dim = (
        text.num_key_value_heads,
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    token = torch.zeros(_EXAMPLE_BATCH, 1, dtype=torch.int64)
    mask = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_PAST + 1, dtype=torch.int64)
    inputs = {
        "input_ids": GraphInput(token, {0: "batch"}),
        "position_ids": GraphInput(_positions(token, family), {0: "batch"}),
        "attention_mask_0": GraphInput(mask, {0: "batch", 1: "present_0"}),
    }
    if family.window is not None:
        inputs["key_places_0"] = GraphInput(mask.clone(), {0: "batch", 1: "present_0"})
    for layer in range(family.num_layers):
        for kind in ("key", "value"):
            past = torch.zeros(_EXAMPLE_BATCH, heads, _EXAMPLE_PAST, head_dim, dtype=model.dtype)
            inputs[f"past_{kind}_{layer}"] = GraphInput(past, {0: "batch", 2: "past_0"})
    return _capture(_Decode, model, family, inputs, {"past_0": 2, "present_0": 3})


def _positions(ids: Tensor, family: Family) -> Tensor:
    """[B,S], or [B,S,4] where positions have three axes beside the order."""
    return torch.zeros(*ids.shape, *(() if family.num_axes == 1 else (1 + family.num_axes,)), dtype=torch.int64)


def _capture(
    graph: Callable[..., _Graph],
    model: nn.Module,
    family: Family,
    inputs: dict[str, GraphInput],
    minimum: dict[str, int],
) -> TokenGraph:
    with onnx_attention(model), torch.no_grad():
        # The empty table decomposes nothing further, but makes the trace functional: no views, detaches or grad
        # switches.
        program = trace(graph(model, family, tuple(inputs)), inputs, minimum).run_decompositions({})
    captured = TokenGraph(program=program, module=flat_module(program), inputs=inputs, outputs=[], minimum=minimum)
    captured.outputs = [_key(path) for path, _ in pytree.tree_flatten_with_path(_output_tree(program))[0]]
    captured.name_placeholders()
    return captured


def _output_tree(program: Any) -> Any:
    spec = program.call_spec.out_spec
    return pytree.tree_unflatten(list(range(spec.num_leaves)), spec)


def _key(path: tuple[Any, ...]) -> str:
    return path[0].key
