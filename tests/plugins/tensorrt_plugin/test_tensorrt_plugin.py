"""The plugin library under TensorRT's own headers: creators, attributes, shapes, types, formats, workspaces."""

import itertools
import random

import op_cases
import pytest
from plugin_harness import (
    FLOAT_TYPES,
    HEADERS,
    INDEX_TYPES,
    Described,
    PluginHarness,
    attributes_of,
    described,
    emulated_plugin,
)

from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.spec import DOMAIN

NUM_SHAPES = 20
MOST_COMBINATIONS = 100
"""So many TensorRT looks at, unless a plugin asks for more."""


def on_meta(name, tensors, attributes):
    """The outputs as torch.export sees them: shapes and types alone."""
    return op_cases.run_torch(name, [t.to("meta") for t in tensors], attributes)


def test_creators_are_the_ops(plugins):
    kinds = {int: "int32", float: "float32"}
    expected = [
        f"PLUGIN CREATOR_V3ONE 1.0|{spec.onnx_name}|{spec.plugin_version}|{DOMAIN}|"
        + ",".join(f"{name}:{kinds[kind]}" for name, kind in spec.attributes)
        for spec in ALL_OPS.values()
    ]
    assert sorted(plugins.creators()) == sorted(expected)


@pytest.mark.parametrize("name", ALL_OPS)
def test_copies_are_alike(plugins, name):
    for values in op_cases.ATTRIBUTES[name]:
        node = plugins.node(name, values)
        kinds, op, version, namespace, outputs, timing, metadata = node.identity().split("|")
        assert kinds == "PLUGIN 1.0,PLUGIN_V3ONE_CORE 1.0,PLUGIN_V3ONE_BUILD 1.0,PLUGIN_V3ONE_RUNTIME 1.0"
        assert (op, version, namespace) == (ALL_OPS[name].onnx_name, ALL_OPS[name].plugin_version, DOMAIN)
        assert int(outputs) == len(ALL_OPS[name].outputs)
        assert timing == metadata
        for attribute, _ in ALL_OPS[name].attributes:
            assert f"{attribute}=" in metadata
        for copy in (node.clone(), node.attached(), node.written_and_read(), node.written_and_read().clone()):
            assert copy.identity() == node.identity()
    others = {plugins.node(name, values).identity() for values in op_cases.ATTRIBUTES[name]}
    assert len(others) == len(op_cases.ATTRIBUTES[name])


@pytest.mark.parametrize("name", ALL_OPS)
def test_shapes_equal_torch(plugins, name):
    draw = random.Random(name)
    for seed in range(NUM_SHAPES):
        batch, num_visual, num_text = (
            draw.randint(1, 4),
            draw.choice([0, 1, 2, draw.randint(3, 700)]),
            draw.randint(0, 40),
        )
        values = draw.choice(op_cases.ATTRIBUTES[name])
        tensors = op_cases.inputs(name, batch, num_visual, num_text=num_text, dim=draw.choice([8, 24]), seed=seed)
        expected = on_meta(name, tensors, values)
        inputs = [described(t) for t in tensors]
        node = plugins.node(name, values)
        for again in (node, node.written_and_read()):
            assert again.output_shapes(inputs) == [tuple(t.shape) for t in expected]
            assert again.output_types(inputs) == [described(t).dtype for t in expected]
        outputs = [described(t) for t in expected]
        assert node.configures(inputs, outputs)
        assert all(node.supports(place, inputs, outputs) for place in range(len(inputs) + len(outputs)))
    assert plugins.messages() == ""


def roles(name):
    """For each input of an op: "floats", "index", "fp32" or "shape"."""
    special = {("density_peak_clusters", "positions"): "fp32", ("score_select", "sequence"): "shape"}
    special["cluster_merge_plan", "sequence"] = "shape"
    tensors = op_cases.inputs(name, 2, 12)
    return [
        special.get((name, label), "floats" if tensor.is_floating_point() else "index")
        for label, tensor in zip(ALL_OPS[name].inputs, tensors, strict=True)
    ]


@pytest.mark.parametrize("name", ALL_OPS)
def test_types_that_fit_together(plugins, name):
    """Every combination of types: floats agree, indices agree, outputs follow."""
    values = op_cases.ATTRIBUTES[name][0]
    tensors = op_cases.inputs(name, 2, 12)
    shapes = [tuple(t.shape) for t in tensors]
    outputs = on_meta(name, tensors, values)
    node, of_inputs = plugins.node(name, values), roles(name)
    accepted = 0
    for types in itertools.product((*FLOAT_TYPES, *INDEX_TYPES, "int8", "bool"), repeat=len(tensors)):
        by_role = {role: {t for t, r in zip(types, of_inputs, strict=True) if r == role} for role in of_inputs}
        floats, index = by_role.get("floats", {"float32"}), by_role.get("index", {"int64"})
        fits = len(floats) == len(index) == 1 and floats <= set(FLOAT_TYPES) and index <= set(INDEX_TYPES)
        fits = fits and by_role.get("fp32", {"float32"}) == {"float32"}
        fits = fits and by_role.get("shape", set()) <= {*FLOAT_TYPES, *INDEX_TYPES}
        inputs = [Described(dtype=t, shape=shape) for t, shape in zip(types, shapes, strict=True)]
        follow = [min(index) if not t.is_floating_point() else "float32" for t in outputs]
        assert node.output_types(inputs) == (follow if fits else [])
        results = [Described(dtype=t, shape=tuple(o.shape)) for t, o in zip(follow, outputs, strict=True)]
        places = range(len(inputs) + len(results))
        assert all(node.supports(place, inputs, results) for place in places) == fits
        accepted += fits
    assert 1 <= accepted <= MOST_COMBINATIONS


@pytest.mark.parametrize("name", ALL_OPS)
def test_formats_are_linear(plugins, name):
    tensors = op_cases.inputs(name, 2, 12)
    values = op_cases.ATTRIBUTES[name][0]
    every = [*map(described, tensors), *map(described, on_meta(name, tensors, values))]
    node, num_inputs = plugins.node(name, values), len(tensors)
    for place, tensor in enumerate(every):
        blocks = [*every]
        blocks[place] = Described(dtype=tensor.dtype, shape=tensor.shape, linear=False)
        assert not node.supports(place, blocks[:num_inputs], blocks[num_inputs:])
        # What stands behind a place does not count yet.
        blocks[place] = tensor
        if place + 1 < len(every):
            blocks[-1] = Described(dtype="bool", shape=(), linear=False)
            assert node.supports(place, blocks[:num_inputs], blocks[num_inputs:])
    assert not node.supports(len(every), every[:num_inputs], every[num_inputs:])
    assert not node.supports(-1, every[:num_inputs], every[num_inputs:])


def refused(plugins, name, attributes, **options):
    """What the creator says as it refuses."""
    assert plugins.create(ALL_OPS[name].onnx_name, attributes, **options) is None
    told = plugins.messages()
    assert told.startswith(f"error: vitcop {ALL_OPS[name].onnx_name}: ")
    assert told.count("\n") == 1
    return told


@pytest.mark.parametrize("name", ALL_OPS)
def test_attributes_that_are_refused(plugins, name):
    spec = ALL_OPS[name]
    good = attributes_of(spec, op_cases.ATTRIBUTES[name][0])
    assert plugins.create(spec.onnx_name, good) is not None
    assert "is missing" in refused(plugins, name, [])
    assert "is missing" in refused(plugins, name, None)
    assert "has no attribute 'keep_ratio'" in refused(plugins, name, [*good, ("keep_ratio", "int32", 1)])
    assert "is given twice" in refused(plugins, name, [*good, good[0]])
    for place, (attribute, kind, value) in enumerate(good):
        others = good[:place] + good[place + 1 :]
        assert f"'{attribute}' is missing" in refused(plugins, name, others)
        told = refused(plugins, name, [*others, (attribute, "char", 0)])
        assert f"'{attribute}' must be one {'float' if kind == 'float32' else 'integer'}" in told
        swapped = (attribute, "int32", 1) if kind == "float32" else (attribute, "float32", 1.0)
        assert f"'{attribute}' must be one" in refused(plugins, name, [*others, swapped])
        if kind == "float32":
            for bad in (float("nan"), float("inf")):
                assert "must be finite" in refused(plugins, name, [*others, (attribute, kind, bad)])
            assert "must be finite in fp32" in refused(plugins, name, [*others, (attribute, "float64", 1e300)])
            assert plugins.create(spec.onnx_name, [*others, (attribute, "float64", value)]) is not None
        elif attribute != "seed":
            flag = attribute in ("largest", "mean_norm", "mean")
            bad = [-1, 2, 2**33] if flag else [-1, 2**31, 2**32 + 1] + ([0] if attribute.endswith("_den") else [])
            for number in bad:
                told = refused(plugins, name, [*others, (attribute, "int64", number)])
                assert told.endswith(f"found {number}\n")
            assert plugins.create(spec.onnx_name, [*others, (attribute, "int64", value)]) is not None
    refused(plugins, name, good, length=2)
    refused(plugins, name, good, length=0)
    named = [("plugin_namespace", "char", 0), ("plugin_version", "char", 0)]
    assert plugins.create(spec.onnx_name, [*named, *good]) is not None


def test_a_cutoff_must_be_given(plugins):
    spec = ALL_OPS["density_peak_clusters"]
    for distance, quantile in ((0.0, 0.0), (-1.0, 0.0), (1e-19, -0.5)):
        told = refused(plugins, spec.torch_name, attributes_of(spec, (1, 4, distance, quantile, 0.6)))
        assert "cutoff_distance must be positive" in told
    told = refused(plugins, spec.torch_name, attributes_of(spec, (1, 4, 1.0, 1.5, 0.6)))
    assert "cutoff_quantile must be at most 1" in told


@pytest.mark.parametrize("name", ALL_OPS)
def test_inputs_that_are_refused(plugins, name):
    values = op_cases.ATTRIBUTES[name][0]
    tensors = op_cases.inputs(name, 2, 12)
    inputs, outputs = [described(t) for t in tensors], [described(t) for t in on_meta(name, tensors, values)]
    node = plugins.node(name, values)
    assert node.configures(inputs, outputs)
    assert node.output_shapes(inputs[:-1]) == []
    assert "inputs" in plugins.messages()
    for place, tensor in enumerate(inputs):
        flat = Described(dtype=tensor.dtype, shape=tensor.shape[:1])
        wrong = [*inputs[:place], flat, *inputs[place + 1 :]]
        assert node.output_shapes(wrong) == []
        assert not node.configures(wrong, outputs)
        assert f"input '{ALL_OPS[name].inputs[place]}' cannot have 1 axes" in plugins.messages()
        unknown = Described(dtype=tensor.dtype, shape=(-1,) * len(tensor.shape))
        assert node.configures([*inputs[:place], unknown, *inputs[place + 1 :]], outputs)
        if place:
            larger = Described(dtype=tensor.dtype, shape=(tensor.shape[0] + 1, *tensor.shape[1:]))
            assert not node.configures([*inputs[:place], larger, *inputs[place + 1 :]], outputs)
            assert "axis 0 of input" in plugins.messages()


def test_heads_and_tokens_must_fit(plugins):
    node = plugins.node("text_query_scores", (0.25,))
    inputs = [described(t) for t in op_cases.inputs("text_query_scores", 2, 12)]
    odd = [Described(dtype="float32", shape=(2, 3, 16)), *inputs[1:]]
    assert not node.configures(odd, [])
    assert "cannot share the key-value heads evenly" in plugins.messages()
    node = plugins.node("score_select", (1, 3, 0))
    shapes = [((2, 9), "float32"), ((2, 9), "int64"), ((2, 8, 3), "float32")]
    assert not node.configures([Described(dtype=kind, shape=shape) for shape, kind in shapes], [])
    assert "more visual tokens than positions" in plugins.messages()


WITHOUT_WORKSPACE = ("knorm_scores", "uniform_scores", "random_scores")


@pytest.mark.parametrize("name", ALL_OPS)
def test_workspaces_are_for_the_largest_shapes(plugins, name):
    """Of a plan whose sizes are not known yet, as large as for the largest shapes themselves."""
    node = plugins.node(name, op_cases.ATTRIBUTES[name][0])
    small = [described(t) for t in op_cases.inputs(name, 2, 12)]
    more_rows = [Described(dtype=t.dtype, shape=(200, *t.shape[1:])) for t in small]
    more_tokens = [described(t) for t in op_cases.inputs(name, 2, 900)]
    least = node.workspace(small, [])
    for largest in (more_rows, more_tokens):
        planned = [
            Described(dtype=t.dtype, shape=(-1,) * len(t.shape), most=most.shape)
            for t, most in zip(small, largest, strict=True)
        ]
        size = node.workspace(planned, [])
        assert size == node.workspace(largest, []) >= least
        assert size == 0 if name in WITHOUT_WORKSPACE else size > 0
    assert node.workspace(more_rows, []) > least or name in WITHOUT_WORKSPACE


@pytest.mark.parametrize("other", HEADERS, ids=str)
def test_messages_reach_the_logger_of_any_version(include, other):
    """Of a library compiled with the headers of one version by a TensorRT of another."""
    plugins = PluginHarness(other, emulated_plugin(include))
    assert "is missing" in refused(plugins, "score_select", [])
    assert plugins.node("score_select", (1, 3, 0)).output_shapes(
        [described(t) for t in op_cases.inputs("score_select", 2, 12)]
    ) == [(2, 11), (2, 4), (2, 4)]
