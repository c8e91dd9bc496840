"""The static operator check: each restriction of the table is found in a graph that breaks it, and not in one that does
not; plugins and their bodies are listed apart."""

import json

import onnx
import onnx.parser
import pytest

from vitcop.export.runtimes.tensorrt.operator_check import Finding, check_operators, examine_operators
from vitcop.export.runtimes.tensorrt.operator_rules import RULES
from vitcop.export.runtimes.tensorrt.operator_table import RELEASES, TABLE_PATH, TYPE_NAMES, load_table
from vitcop.plugins.errors import InputError
from vitcop.plugins.onnx_functions import functions
from vitcop.plugins.registry import ALL_OPS

GONE = {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample"}
"""Operators of the table that ONNX has no more."""


def model(text: str, opset: int = 23) -> onnx.ModelProto:
    """A model from the text of its graph."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "vitcop": 1]>\n{text}')


def graph(inputs: str, body: str, outputs: str = "y") -> onnx.ModelProto:
    """A model whose outputs have no declared type. A body may begin with its initializers in angles."""
    weights, body = body.split("> ", 1) if body.startswith("<") else ("<", body)
    made = model(f"g ({inputs}) => (float {outputs.split(',')[0]}) {weights}> {{ {body} }}")
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=name.strip()) for name in outputs.split(","))
    return made


X4 = "float[B,3,8,8] x"
QKV = "float[B,2,S,8] q, float[B,2,S,8] k, float[B,2,S,8] v"
REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
AXIS = "a = Constant <value_ints = [1]> ()"
ONE = "a = Constant <value_int = 1> ()"
SIZES = "s = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Resize"
RNN = "float[S,B,4] x, float[2,8,4] w, float[2,8,8] r"
WIDE = "float[S,B,4] x, float[2,24,4] w, float[2,24,8] r"
LSTM = "float[S,B,4] x, float[1,32,4] w, float[1,32,8] r"
BOTH = 'direction = "bidirectional", hidden_size = 8'

# operator, kind of rule, inputs, a body that the table allows, one that it does not, what the finding says
CASES = [
    ("Attention", "rank", QKV, "y = Attention (q, k, v)", "m = ReduceSum <keepdims = 0> (q, ax)"
     " ax = Constant <value_ints = [1]> () y = Attention (m, k, v)", "rank"),
    ("Attention", "inputs_absent", QKV, "y = Attention (q, k, v, )", "y = Attention (q, k, v, , k, v)", "input 4"),
    ("Attention", "outputs_absent", QKV, "y = Attention (q, k, v)", "y, p, u = Attention (q, k, v, , k, v)",
     "output 1"),
    ("Attention", "attributes_absent", QKV, "y = Attention <softcap = 0.0> (q, k, v)",
     "y = Attention <softcap = 30.0> (q, k, v)", "softcap"),
    ("AveragePool", "rank", X4 + ", float[B,3,8] z", "y = AveragePool <kernel_shape = [2, 2]> (x)",
     "y = AveragePool <kernel_shape = [2]> (z)", "rank 3"),
    ("AveragePool", "attribute_all", X4, "y = AveragePool <kernel_shape = [2, 2], dilations = [1, 1]> (x)",
     "y = AveragePool <kernel_shape = [2, 2], dilations = [2, 1]> (x)", "dilations"),
    ("MaxPool", "rank", X4 + ", float[B,3,8] z", "y = MaxPool <kernel_shape = [2, 2]> (x)",
     "y = MaxPool <kernel_shape = [2]> (z)", "rank 3"),
    ("MaxPool", "attribute_all", X4, "y = MaxPool <kernel_shape = [2, 2]> (x)",
     "y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", "dilations"),
    ("MaxPool", "outputs_absent", X4, "y = MaxPool <kernel_shape = [2, 2]> (x)",
     "y, i = MaxPool <kernel_shape = [2, 2]> (x)", "output 1"),
    ("LpPool", "attribute_all", X4, "y = LpPool <kernel_shape = [2, 2]> (x)",
     "y = LpPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", "dilations"),
    ("Constant", "attributes_absent", X4, "y = Constant <value_int = 1> ()", 'y = Constant <value_string = "a"> ()',
     "value_string"),
    ("CumSum", "constant_input", X4 + ", int64 n", f"{ONE} y = CumSum (x, a)", "y = CumSum (x, n)", "computed"),
    ("Squeeze", "constant_input", "float[B,1,3] x, int64[1] n", f"{AXIS} y = Squeeze (x, a)", "y = Squeeze (x, n)",
     "computed"),
    ("Squeeze", "constant_input", "float[B,1,3] x, float[1,3] z", "y = Squeeze (z)", "y = Squeeze (x)",
     "dynamic shape"),
    ("Unsqueeze", "constant_input", X4 + ", int64[1] n", f"{AXIS} y = Unsqueeze (x, a)", "y = Unsqueeze (x, n)",
     "computed"),
    ("OneHot", "constant_input", "int64[B] x, int64 n, float[2] v", f"{ONE} y = OneHot (x, a, v)",
     "y = OneHot (x, n, v)", "computed"),
    ("Hardmax", "static_axis", "float[B,4] x", "y = Hardmax (x)", "y = Hardmax <axis = 0> (x)", "axis 0"),
    ("EyeLike", "static_shape", "float[B,4] x, float[4,4] z", "y = EyeLike <dtype = 1> (z)",
     "y = EyeLike <dtype = 1> (x)", "dynamic"),
    ("Dropout", "constant_input", X4, "t = Constant <value = bool {0}> () y = Dropout (x, , t)",
     "t = Constant <value = bool {1}> () y = Dropout (x, , t)", "training_mode is True"),
    ("DequantizeLinear", "zero_input", "int8[B,4] x, float s",
     "<int8 z = {0}> y = DequantizeLinear (x, s, z)",
     "<int8 z = {3}> y = DequantizeLinear (x, s, z)", "x_zero_point is 3"),
    ("QuantizeLinear", "zero_input", "float[B,4] x, float s",
     "<int8 z = {0}> y = QuantizeLinear (x, s, z)",
     "<int8 z = {3}> y = QuantizeLinear (x, s, z)", "y_zero_point is 3"),
    ("DeformConv", "rank", "float[1,2,4,4] x, float[2,2,1,1] w, float[1,2,4,4] o, float[1,2,4,4,4] z,"
     "float[2,2,1,1,1] v, float[1,3,4,4,4] p", "y = DeformConv (x, w, o)", "y = DeformConv (z, v, p)", "rank 5"),
    ("DeformConv", "symmetric_pads", "float[1,2,4,4] x, float[2,2,1,1] w, float[1,2,4,4] o",
     "y = DeformConv <pads = [1, 1, 1, 1]> (x, w, o)", "y = DeformConv <pads = [1, 1, 0, 0]> (x, w, o)", "pads"),
    ("GridSample", "rank", X4 + ", float[B,2,2,2] g, float[B,3,4,4,4] z, float[B,2,2,2,3] h", "y = GridSample (x, g)",
     "y = GridSample (z, h)", "rank 5"),
    ("STFT", "constant_input", "float[B,64,1] x, int64 n, float[16] w",
     "v = ConstantOfShape <value = float[1] {1.0}> (c) c = Constant <value_ints = [16]> ()"
     " s = Constant <value_int = 4> () u = Constant <value = float[2] {1.0, 1.0}> () y = STFT (x, s, u)",
     "y = STFT (x, n, w)", "computed"),
    ("STFT", "last_axis", "float[B,64,1] x, float[B,64,2] z",
     "s = Constant <value_int = 4> () u = Constant <value = float[2] {1.0, 1.0}> () y = STFT (x, s, u)",
     "s = Constant <value_int = 4> () u = Constant <value = float[2] {1.0, 1.0}> () y = STFT (z, s, u)", "last axis 2"),
    ("RNN", "equal_halves", RNN, f'y = RNN <{BOTH}, activations = ["Tanh", "Tanh"]> (x, w, r)',
     f'y = RNN <{BOTH}, activations = ["Tanh", "Relu"]> (x, w, r)', "activations"),
    ("GRU", "equal_halves", WIDE, f'y = GRU <{BOTH}, activations = ["Sigmoid", "Tanh", "Sigmoid", "Tanh"]> (x, w, r)',
     f'y = GRU <{BOTH}, activations = ["Sigmoid", "Tanh", "Tanh", "Tanh"]> (x, w, r)', "activations"),
    ("LSTM", "equal_halves", LSTM, "y = LSTM <hidden_size = 8> (x, w, r)",
     f'y = LSTM <{BOTH}, activations = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Relu"]> (x, w, r)',
     "activations"),
    ("LSTM", "attribute_in", LSTM, "y = LSTM <hidden_size = 8, input_forget = 0> (x, w, r)",
     "y = LSTM <hidden_size = 8, input_forget = 1> (x, w, r)", "input_forget = 1"),
    ("LSTM", "attribute_in", LSTM, "y = LSTM <hidden_size = 8, layout = 0> (x, w, r)",
     "y = LSTM <hidden_size = 8, layout = 1> (x, w, r)", "layout = 1"),
    ("LayerNormalization", "outputs_absent", "float[B,4] x, float[4] s", "y = LayerNormalization (x, s)",
     "y, m, d = LayerNormalization (x, s)", "output 1"),
    ("NonZero", "data_dependent", X4, "y = Identity (x)", "y = NonZero (x)", "depends on the data"),
    ("Resize", "attribute_in", X4, f"{SIZES} (x, , s)", f'{SIZES} <mode = "cubic"> (x, , s)', "mode = cubic"),
    ("Resize", "attribute_in", X4, f"{SIZES} (x, , s)",
     f'{SIZES} <coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s)', "half_pixel_symmetric"),
    ("Resize", "attribute_in", X4, f"{SIZES} (x, , s)", f"{SIZES} <antialias = 1> (x, , s)", "antialias = 1"),
    ("Resize", "attribute_in", X4, f"{SIZES} (x, , s)",
     f'{SIZES} <keep_aspect_ratio_policy = "not_larger"> (x, , s)', "not_larger"),
    ("Resize", "all_axes", X4, f"{SIZES} <axes = [0, 1, 2, 3]> (x, , s)",
     "s = Constant <value = float[2] {2.0, 2.0}> () y = Resize <axes = [2, 3]> (x, , s)", "axes = [2, 3]"),
    ("RotaryEmbedding", "input_type", "float[B,2,S,8] x, float[9,4] c, int64[B,S] p, int32[B,S] n",
     "y = RotaryEmbedding (x, c, c, p)", "y = RotaryEmbedding (x, c, c, n)", "position_ids is INT32"),
    ("ScatterND", "attribute_in", "float[B,4] x, int64[B,1] i, float[B,4] u", "y = ScatterND (x, i, u)",
     'y = ScatterND <reduction = "add"> (x, i, u)', "reduction = add"),
    ("TopK", "attribute_in", "float[B,9000] x", f"{AXIS} y, i = TopK (x, a)", f"{AXIS} y, i = TopK <sorted = 0> (x, a)",
     "sorted = 0"),
    ("TopK", "below", "float[B,9000] x", "a = Constant <value_ints = [3839]> () y, i = TopK (x, a)",
     "a = Constant <value_ints = [3840]> () y, i = TopK (x, a)", "K = 3840"),
    ("TopK", "below", "float[B,9000] x, int64[1] n", f"{AXIS} y, i = TopK (x, a)", "y, i = TopK (x, n)", "computed"),
    ("If", "branches", X4 + ", bool c", "y = If (c) <then_branch = t () => (float[1] o) { o = Constant <value ="
     " float[1] {1.0}> () }, else_branch = e () => (float[1] p) { p = Constant <value = float[1] {2.0}> () }>",
     "y = If (c) <then_branch = t () => (float[1] o) { o = Constant <value = float[1] {1.0}> () },"
     " else_branch = e () => (float p) { p = Constant <value = float {2.0}> () }>", "rank 1 and 0"),
    ("If", "branches", X4 + ", bool c", "y = Identity (x)", "y = If (c) <then_branch = t () => (float[1] o) { o ="
     " Constant <value = float[1] {1.0}> () }, else_branch = e () => (float[1] o) { o = Constant <value ="
     " float[1] {2.0}> () }>", "their output o"),
    ("Loop", "carried_shapes", "float[4] x, int64 n, bool c", "y = Loop (n, c, x) <body = b (int64 i, bool d,"
     " float[4] s) => (bool e, float[4] t) { e = Identity (d) t = Add (s, s) }>",
     "y = Loop (n, c, x) <body = b (int64 i, bool d, float[4] s) => (bool e, float[8] t) { e = Identity (d)"
     " t = Concat <axis = 0> (s, s) }>", "keep their shape"),
    ("Loop", "scan_length", "float[4] x, int64 n, bool c", "m = Constant <value_int = 3> () z, y = Loop (m, c, x) <body"
     " = b (int64 i, bool d, float[4] s) => (bool e, float[4] t, float[4] u) { e = Identity (d) t = Add (s, s) u ="
     " Identity (s) }>", "z, y = Loop (n, c, x) <body = b (int64 i, bool d, float[4] s) => (bool e, float[4] t,"
     " float[4] u) { e = Identity (d) t = Add (s, s) u = Identity (s) }>", "scan outputs"),
    *((f"Reduce{each}", "constant_input", X4 + ", int64[1] n", f"{AXIS} y = Reduce{each} (x, a)",
       f"y = Reduce{each} (x, n)", "axes (n) is computed") for each in REDUCED),
]  # fmt: skip
NEWER = [
    ("TensorScatter", "rank", "float[B,2,9,4] x, float[B,2,1,4] u, int64[B] w, float[B,9,4] z, float[B,1,4] v",
     "y = TensorScatter (x, u, w)", "y = TensorScatter (z, v, w)", "rank 3"),
    ("TensorScatter", "attribute_in", "float[B,2,9,4] x, float[B,1,9,4] u, float[B,2,1,4] v, int64[B] w",
     "y = TensorScatter <axis = -2> (x, v, w)", "y = TensorScatter <axis = 1> (x, u, w)", "axis = 1"),
]  # fmt: skip


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("op, kind, inputs, good, bad, word", CASES + NEWER)
def test_each_restriction_is_found(op, kind, inputs, good, bad, word, release):
    for body in (good, bad):
        made = graph(inputs, body)
        if (op, kind, inputs, good, bad, word) in NEWER:
            made.opset_import[0].version = 24
        found = check_operators(made, release)
        if body is good:
            assert found == (), [str(each) for each in found]
        else:
            assert [each for each in found if each.op == op and word in f"{each.found} {each.supported}"], found


def test_every_rule_of_the_table_has_a_graph_that_breaks_it():
    wanted = {
        (name, rule["kind"])
        for name, entry in json.loads(TABLE_PATH.read_text())["operators"].items()
        for rule in entry.get("rules", ())
    }
    assert wanted == {(op, kind) for op, kind, *_ in CASES + NEWER}
    assert {kind for _, kind in wanted} == set(RULES)


@pytest.mark.parametrize("release", RELEASES)
def test_the_table_speaks_of_onnx(release):
    table = load_table(release)
    defined = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(table.operators) - defined <= GONE
    types = set(TYPE_NAMES.values())
    for name, known in table.operators.items():
        assert known is None or (known.types and known.types <= types), name
    assert table.opsets == {"10.15": (9, 24), "11": (9, 25)}[release]


def test_sources_are_named():
    data = json.loads(TABLE_PATH.read_text())
    for facts in data["releases"].values():
        assert facts["sources"] and all("10." in source or "11." in source for source in facts["sources"])
    assert not data["releases"]["11"]["complete"] and "10.15" in data["releases"]["11"]["note"]


@pytest.mark.parametrize(
    "inputs, body, found, supported",
    [
        ("double[B,4] x", "y = Add (x, x)", "FP64 (x)", "BF16, FP16, FP32, INT32, INT64"),
        ("float[B,4] x", "w = Cast <to = 11> (x) y = Cast <to = 1> (w)", "FP64 (w)", "BF16, BOOL"),
        ("int64[B,4] x", f"{ONE} y = CumSum (x, a)", "INT64 (x)", "BF16, FP16, FP32"),
        ("int64[B,4] x", f"{ONE} y = Clip (x, a)", "INT64 (x)", "BF16, FP16, FP32"),
        ("bool[B,4] x, int64[B,4] i", "y = ScatterElements <axis = 1> (x, i, x)", "BOOL (x)", "FP16, FP32, INT32"),
        ("bool[B,4] c, double[B,4] x", "y = Where (c, x, x)", "FP64 (x)", "BOOL"),
        ("int64[B] x", f"{ONE} v = Constant <value = double[2] {{0.0, 1.0}}> () y = OneHot (x, a, v)", "FP64 (v)", ""),
        ("float[B,4] x", "y = Det (x)", "this operator", "no such operator"),
        ("float[2] x", "y = Bernoulli (x)", "this operator", "no such operator"),
        ("float[1,1,1,1,1,1,1,1,1] x", "y = Abs (x)", "rank 9 (x)", "at most 8"),
        ("float[B,4] x, float16[B,4] z", "y = Add (x, z)", "inputs of types FP16, FP32", "one type"),
    ],
)
def test_types_ranks_and_operators(inputs, body, found, supported):
    made = graph(inputs, body)
    for release in RELEASES:
        texts = [(each.found, each.supported) for each in check_operators(made, release)]
        assert [text for text in texts if found in text[0] and supported in text[1]], texts


def test_opsets_and_what_came_with_11():
    swish = graph("float[B,4] x", "y = Swish (x)")
    swish.opset_import[0].version = 24
    assert [str(each) for each in check_operators(swish, "10.15")] == [
        "Swish 'y': this operator; supported: no such operator in TensorRT 10.15"
    ]
    assert check_operators(swish, "11") == ()
    swish.opset_import[0].version = 25
    assert next(each.found for each in check_operators(swish, "10.15")) == "opset 25"
    assert check_operators(swish, "11") == ()
    old = graph("float[B,4] x", "y = Abs (x)")
    old.opset_import[0].version = 8
    assert [each.supported for each in check_operators(old, "11")] == ["opsets 9 to 25"]


def test_a_type_that_is_not_known_is_found():
    made = graph("float[B,4] x", "w = strange.Thing (x) y = Abs (w)")
    made.opset_import.append(onnx.helper.make_opsetid("strange", 1))
    texts = [each.found for each in check_operators(made, "11")]
    assert texts == ["domain 'strange'", "unknown type (w)"]


def test_a_graph_that_onnx_refuses_is_refused():
    with pytest.raises(InputError, match="not a sound ONNX graph: .*strange"):
        check_operators(graph("float[B,4] x", "y = strange.Thing (x)"), "11")


def test_functions_of_other_domains_are_entered():
    made = model('g (float[B,4] x) => (float[B,4] y) { y = own.Twice (x) }\n<domain: "own", opset_import: ["": 23]>\n'
                 "Twice (a) => (b) { c = Cast <to = 11> (a) b = Cast <to = 1> (c) }")  # fmt: skip
    made.opset_import.append(onnx.helper.make_opsetid("own", 1))
    found = check_operators(made, "10.15")
    assert {each.op for each in found} == {"Twice/Cast"} and "FP64" in found[0].found


def test_graphs_inside_of_nodes_are_walked():
    body = "y = If (c) <then_branch = t () => (double o) { o = Cast <to = 11> (x) }, else_branch = e () => (double p)"
    made = graph("float x, bool c", body + " { p = Cast <to = 11> (x) }>")
    assert [each.op for each in check_operators(made, "11")] == ["If", "Cast", "Cast"]


def with_plugin(keys: str = "float", **attributes: str) -> onnx.ModelProto:
    """A model of one KNormSelect with its function."""
    named = {"plugin_namespace": "vitcop", "plugin_version": "1"} | attributes
    extra = "".join(f', {name} = "{value}"' for name, value in named.items() if value)
    made = model(
        f"g ({keys}[B,2,S,4] keys, int64[B,V] index) => (int64[B,P] p, int64[B,K] n, int64[B,K] m)"
        " { p, n, m = vitcop.KNormSelect <keep_num = 1, keep_den = 2, mean_norm = 0, largest = 0" + extra
        + "> (keys, index) }"
    )  # fmt: skip
    made.functions.append(functions(23)["KNormSelect"])
    return made


@pytest.mark.parametrize("keys, name", [("float", "FP32"), ("float16", "FP16"), ("bfloat16", "BF16")])
def test_plugins_are_listed_and_their_bodies_judged_apart(keys, name):
    report = examine_operators(with_plugin(keys), "10.15")
    assert report.findings == ()
    (plugin,) = report.plugins
    assert (plugin.op, plugin.inputs, plugin.outputs) == ("KNormSelect", (name, "INT64"), ("INT64",) * 3)
    # Without the plugin the body would not parse: it counts with integers, and its TopK keeps as many as it must.
    assert {(each.op, each.supported) for each in report.bodies} == {
        ("KNormSelect/CumSum", "BF16, FP16, FP32"),
        ("KNormSelect/TopK", "K below 3840"),
    }


CALLS = {
    "VisionSaliency": ("float[B,2,8] q, float[B,2,N,8] keys", {"scale": 0.5}, set()),
    "KNormScores": ("float[B,2,S,8] keys, int64[B,V] index", {"mean_norm": 0}, set()),
    "TextQueryScores": (
        "float[B,2,8] q, float[B,2,S,8] keys, int64[B,V] index, int64[B,S] mask",
        {"scale": 0.5},
        set(),
    ),
    "UniformScores": ("int64[B,V] index", {"keep_num": 1, "keep_den": 2}, set()),
    "RandomScores": ("int64[B,V] places", {"seed": 3}, {"BitwiseXor"}),
    "KNormSelect": (
        "float[B,2,S,8] keys, int64[B,V] index",
        {"keep_num": 1, "keep_den": 2, "mean_norm": 0, "largest": 0},
        {"CumSum", "TopK"},
    ),
    "ScoreSelect": (
        "float[B,V] scores, int64[B,V] index, int64[B,S] sequence",
        {"keep_num": 1, "keep_den": 2, "largest": 0},
        {"CumSum", "TopK"},
    ),
    "ClusterMergePlan": (
        "float[B,V] scores, int64[B,V] labels, int64[B,V] index, int64[B,S] sequence",
        {"keep_num": 1, "keep_den": 2, "clusters_num": 1, "clusters_den": 4, "mean": 0},
        {"CumSum", "TopK", "Cast", "Constant", "ReduceSum", "Unsqueeze", "Where"},
    ),
    "DensityPeakClusters": (
        "float[B,K,8] features, float[B,K,2] positions, int64[B,K] groups",
        {"centers_num": 1, "centers_den": 4, "cutoff_distance": 8.0, "cutoff_quantile": 0.0, "spatial_radius": 0.6},
        {"TopK", "Cast", "Constant", "If", "Mul", "ReduceSum", "Round"},
    ),
}
"""Each op: inputs, attributes, and the operators of its body that the parser would not take: the list of the docs."""


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", CALLS)
def test_which_bodies_would_parse_alone(name, release):
    inputs, attributes, wanted = CALLS[name]
    spec = next(spec for spec in ALL_OPS.values() if spec.onnx_name == name)
    assert set(attributes) == {attribute for attribute, _ in spec.attributes}
    named = {**attributes, "plugin_namespace": "vitcop", "plugin_version": spec.plugin_version}
    text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in named.items())
    arguments = ", ".join(part.split()[-1] for part in inputs.split(", "))
    outputs = ", ".join(spec.outputs)
    made = graph(inputs, f"{outputs} = vitcop.{name} <{text}> ({arguments})", outputs)
    made.functions.append(functions(23)[name])
    report = examine_operators(made, release)
    assert {each.op.partition("/")[2] for each in report.bodies} == wanted
    assert len(report.plugins) == 1 and not report.findings


def test_every_op_is_called():
    assert set(CALLS) == {spec.onnx_name for spec in ALL_OPS.values()}


def test_plugins_that_the_parser_would_not_find_are_found():
    for name in ("plugin_namespace", "plugin_version"):
        (found,) = check_operators(with_plugin(**{name: ""}), "11")
        assert name in found.found
    assert [each.found for each in check_operators(with_plugin("double"), "11")] == ["FP64 (keys)"]


def test_every_plugin_has_a_body_to_judge():
    assert {spec.onnx_name for spec in ALL_OPS.values()} == set(functions(23))


def test_a_finding_reads_as_one_line():
    finding = Finding(node="n", op="Clip", found="INT64 (x)", supported="FP32")
    assert str(finding) == "Clip 'n': INT64 (x); supported: FP32"


def test_weights_outside_are_not_read(tmp_path):
    made = graph("float[B,4] x", "y = MatMul (x, w)")
    weight = made.graph.initializer.add(name="w", data_type=1, dims=[4, 4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": "not-there.safetensors", "offset": "8", "length": "64"}.items():
        weight.external_data.add(key=key, value=value)
    path = tmp_path / "graph.onnx"
    path.write_bytes(made.SerializeToString())
    assert check_operators(path, "11") == ()
    assert check_operators(str(path), "10.15") == ()
