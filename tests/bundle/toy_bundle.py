"""A toy bundle made by hand, without torch: three small ONNX graphs that honour the contract, and the same in NumPy.

The toy: 4 patches of 2×2×3 pixels, 2 layers of one KV head. Keys and values of a layer are projections of its input,
the last logits are (sum of all values of all layers at real positions + last hidden state) · head, so positions,
masks, lengths and dropping all show in the answer.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, parser
from safetensors.numpy import save_file

from vitcop.calibrate.models.checkpoint import read_header
from vitcop.calibrate.models.prompt import PromptBatch, batch_prompts
from vitcop.calibrate.schedule.schedule import Drop, Schedule, VisionStage
from vitcop.export.bundle import Architecture, Bundle, write_bundle, writing_bundle
from vitcop.export.bundle.architecture import GraphInputRecord
from vitcop.plugins.spec import DOMAIN

HIDDEN, VOCAB, IMAGE_TOKEN, EOS = 4, 16, 4, 2
ARCHITECTURE = Architecture(
    num_layers=2,
    num_visual=4,
    vision_inputs=(GraphInputRecord(name="pixel_values", kind="float", axes=("B", "3", "4", "4")),),
    num_planes=0,
    position_axes=1,
    patches_per_token=1,
    visual_tokens=(IMAGE_TOKEN,),
    hidden_size=HIDDEN,
    sliding_layers=(),
    num_kv_heads=1,
    head_dim=HIDDEN,
    vocab_size=VOCAB,
    eos_token_ids=(EOS,),
    dtype="float32",
)
EMPTY = Schedule(num_layers=2, model_id="toy")
PRUNED = Schedule(
    num_layers=2,
    model_id="toy",
    vision=VisionStage(score="class_attention", keep=(3, 4)),
    drops=(Drop(layer=1, keep=(2, 3)),),
)
SHAPES = {"vision": (12, 4), "embed": (VOCAB, 4), "head": (4, VOCAB)} | {
    f"{name}{i}": (4, 4) for name in ("k", "v", "m") for i in (0, 1)
}
SHARD = "model.safetensors"

# Token ids of the kept, in ascending order: the K largest of a score, ties to the lowest index, as TopK gives them.
HEADER = '<ir_version: 10, opset_import: ["" : 18, "vitcop" : 1]>'
VISION_BODY = """
    shape = Constant <value = int64[6] {0, 3, 2, 2, 2, 2}> ()
    patches = Reshape (pixel_values, shape)
    turned = Transpose <perm = [0, 2, 4, 1, 3, 5]> (patches)
    flat_shape = Constant <value = int64[3] {0, 4, 12}> ()
    flat = Reshape (turned, flat_shape)
"""
VISION_EMPTY = f"""{HEADER}
vision (float[B,3,4,4] pixel_values) => (float[B,4,4] visual_features) {{ {VISION_BODY}
    visual_features = MatMul (flat, vision)
}}"""
VISION_PRUNED = f"""{HEADER}
vision (float[B,3,4,4] pixel_values, int64[B,4,1] visual_patches) =>
    (float[B,3,4] visual_features, int64[B,3] kept_patches) {{ {VISION_BODY}
    all = MatMul (flat, vision)
    kept_patches = vitcop.VisionSaliency (all)
    axis = Constant <value = int64[1] {{2}}> ()
    index = Unsqueeze (kept_patches, axis)
    visual_features = GatherND <batch_dims = 1> (all, index)
}}
<domain: "vitcop", opset_import: ["" : 18]>
VisionSaliency (x) => (kept) {{
    square = Mul (x, x)
    last = Constant <value = int64[1] {{-1}}> ()
    score = ReduceSum <keepdims = 0> (square, last)
    three = Constant <value = int64[1] {{3}}> ()
    values, chosen = TopK <axis = -1> (score, three)
    turned = Neg (chosen)
    ordered, unused = TopK <axis = -1> (turned, three)
    kept = Neg (ordered)
}}"""

EMBED = """
    words = Gather (embed, input_ids)
    two = Constant <value = int64[1] {2}> ()
    places = Unsqueeze (visual_index, two)
    features_shape = Shape (visual_features)
    spread = Expand (places, features_shape)
    placed = ScatterElements <axis = 1> (words, spread, visual_features)
    steps = Cast <to = 1> (position_ids)
    steps3 = Unsqueeze (steps, two)
    tenth = Constant <value_float = 0.125> ()
    scaled = Mul (steps3, tenth)
    h0 = Add (placed, scaled)
"""


def _layer(i: int, mask: str, *, past: bool) -> str:
    """Keys and values of layer i, the masked sum of its values, and the next hidden state."""
    one = "one_axis = Constant <value = int64[1] {1}> ()" if i == 0 else ""
    text = f"""
    {one}
    k{i}n = MatMul (h{i}, k{i})
    k{i}p = Unsqueeze (k{i}n, one_axis)
    v{i}n = MatMul (h{i}, v{i})
    v{i}p = Unsqueeze (v{i}n, one_axis)
    """
    for letter, name in (("k", "key"), ("v", "value")):
        text += (
            f"present_{name}_{i} = Concat <axis = 2> (past_{name}_{i}, {letter}{i}p)\n"
            if past
            else f"present_{name}_{i} = Identity ({letter}{i}p)\n"
        )
    return f"""{text}
    m{i}f = Cast <to = 1> ({mask})
    m{i}a = Constant <value = int64[2] {{1, 3}}> ()
    m{i}u = Unsqueeze (m{i}f, m{i}a)
    seen{i} = Mul (present_value_{i}, m{i}u)
    sum_axes{i} = Constant <value = int64[2] {{1, 2}}> ()
    context{i} = ReduceSum <keepdims = 0> (seen{i}, sum_axes{i})
    mix{i} = MatMul (h{i}, m{i})
    act{i} = Tanh (mix{i})
    h{i}out = Add (h{i}, act{i})
    """


LOGITS = """
    minus = Constant <value_int = -1> ()
    last = Gather <axis = 1> (h1out, minus)
    both = Add (context0, context1)
    all = Add (both, last)
    flat_logits = MatMul (all, head)
    logits = Unsqueeze (flat_logits, one_axis)
"""
PREFILL_IN = (
    "int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] position_ids, "
    "float[B,V,4] visual_features, int64[B,V] visual_index"
)
PREFILL_OUT = (
    "float[B,1,16] logits, float[B,1,S,4] present_key_0, float[B,1,S,4] present_value_0, "
    "float[B,1,S1,4] present_key_1, float[B,1,S1,4] present_value_1"
)
PREFILL_EMPTY = f"""{HEADER}
prefill ({PREFILL_IN}) => ({PREFILL_OUT}) {{ {EMBED} {_layer(0, "attention_mask", past=False)}
    h1 = Identity (h0out) {_layer(1, "attention_mask", past=False)} {LOGITS} }}"""
PREFILL_PRUNED = f"""{HEADER}
prefill ({PREFILL_IN}) => ({PREFILL_OUT}, int64[B,K] kept_visual_0) {{ {EMBED} {_layer(0, "attention_mask", past=False)}
    kept_positions, kept_visual_0 = vitcop.KNormSelect (present_key_0, visual_index)
    index = Unsqueeze (kept_positions, two)
    h1 = GatherND <batch_dims = 1> (h0out, index)
    mask1 = GatherND <batch_dims = 1> (attention_mask, index)
    {_layer(1, "mask1", past=False)} {LOGITS} }}
<domain: "vitcop", opset_import: ["" : 18]>
KNormSelect (keys, visual_index) => (kept_positions, kept) {{
    head = Constant <value = int64[1] {{1}}> ()
    rows = Squeeze (keys, head)
    last = Constant <value = int64[1] {{2}}> ()
    place = Unsqueeze (visual_index, last)
    visual = GatherND <batch_dims = 1> (rows, place)
    square = Mul (visual, visual)
    score = ReduceSum <keepdims = 0> (square, last)
    count = Constant <value = int64[1] {{2}}> ()
    values, chosen = TopK <axis = -1, largest = 0> (score, count)
    turned = Neg (chosen)
    ordered, unused = TopK <axis = -1> (turned, count)
    kept = Neg (ordered)
    kept3 = Unsqueeze (kept, last)
    kept_index = GatherND <batch_dims = 1> (visual_index, kept3)
    flat = Shape <start = 0, end = 3> (keys)
    shape_BS = Shape <start = 2, end = 3> (keys)
    batch = Shape <start = 0, end = 1> (keys)
    size = Concat <axis = 0> (batch, shape_BS)
    ones = ConstantOfShape <value = float[1] {{1.0}}> (size)
    index_shape = Shape (visual_index)
    zeros = ConstantOfShape <value = float[1] {{0.0}}> (index_shape)
    kept_shape = Shape (kept_index)
    back = ConstantOfShape <value = float[1] {{1.0}}> (kept_shape)
    without = ScatterElements <axis = 1> (ones, visual_index, zeros)
    stay = ScatterElements <axis = 1> (without, kept_index, back)
    dropped = Constant <value = int64[1] {{1}}> ()
    length = Sub (shape_BS, dropped)
    stays, at = TopK <axis = -1> (stay, length)
    at_turned = Neg (at)
    at_ordered, at_unused = TopK <axis = -1> (at_turned, length)
    kept_positions = Neg (at_ordered)
}}"""
DECODE_BODY = """
    words = Gather (embed, input_ids)
    two = Constant <value = int64[1] {2}> ()
    steps = Cast <to = 1> (position_ids)
    steps3 = Unsqueeze (steps, two)
    tenth = Constant <value_float = 0.125> ()
    scaled = Mul (steps3, tenth)
    h0 = Add (words, scaled)
"""


def _decode(groups: int) -> str:
    masks = ", ".join(f"int64[B,M{g}] attention_mask_{g}" for g in range(groups))
    past = ", ".join(f"float[B,1,P{i},4] past_{n}_{i}" for i in (0, 1) for n in ("key", "value"))
    return f"""{HEADER}
    decode (int64[B,1] input_ids, int64[B,1] position_ids, {masks}, {past}) => ({PREFILL_OUT}) {{ {DECODE_BODY}
    {_layer(0, "attention_mask_0", past=True)} h1 = Identity (h0out)
    {_layer(1, f"attention_mask_{groups - 1}", past=True)} {LOGITS} }}"""


def toy_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of the toy, fp32."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.5 for name, shape in SHAPES.items()}


def toy_model_folder(folder: Path, seed: int = 0) -> Path:
    """A folder with the toy's shard and the least of a Hugging Face config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(toy_weights(seed), folder / SHARD)
    (folder / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}\n')
    return folder


def toy_graphs(schedule: Schedule, model_folder: Path) -> dict[str, onnx.ModelProto]:
    """The three graphs, their weights external tensors into the shard."""
    pruned = not schedule.is_empty
    texts = {
        "vision": VISION_PRUNED if pruned else VISION_EMPTY,
        "prefill": PREFILL_PRUNED if pruned else PREFILL_EMPTY,
        "decode": _decode(2 if pruned else 1),
    }
    places = read_header(model_folder / SHARD)
    graphs = {}
    for part, text in texts.items():
        model = parser.parse_model(text)
        produced = {name for node in model.graph.node for name in node.output} | {v.name for v in model.graph.input}
        read = {name for node in model.graph.node for name in node.input} - produced
        for name in sorted(read):
            tensor = TensorProto(
                name=name, data_type=TensorProto.FLOAT, dims=SHAPES[name], data_location=TensorProto.EXTERNAL
            )
            for key, value in (("location", SHARD), ("offset", places[name].offset), ("length", places[name].length)):
                tensor.external_data.add(key=key, value=str(value))
            model.graph.initializer.append(tensor)
        graphs[part] = model
    return graphs


def write_toy(
    out: Path, model_folder: Path, schedule: Schedule = PRUNED, *, copy_weights: bool = False, change=None
) -> Bundle:
    """Write and open a toy bundle; `change(graphs)` may alter the graphs before they are written."""
    graphs = toy_graphs(schedule, model_folder)
    if change:
        change(graphs)
    with writing_bundle(out) as staging:
        for part, model in graphs.items():
            (staging / f"{part}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        (staging / "config.json").write_bytes((model_folder / "config.json").read_bytes())
        write_bundle(
            staging,
            out,
            schedule=schedule,
            architecture=ARCHITECTURE,
            family="llava",
            model_id="toy",
            config_hash="0" * 64,
            weights_folder=model_folder,
            shards=[SHARD],
            ops={
                function.name for model in graphs.values() for function in model.functions if function.domain == DOMAIN
            },
            copy_weights=copy_weights,
            provenance={"note": "made by hand"},
        )
    return Bundle.open(out)


def toy_batch(rows: int = 2, seed: int = 0) -> PromptBatch:
    """Prompts of different lengths (so padded on the left), 4 visual tokens each."""
    rng = np.random.default_rng(seed)
    ids = [[1, *[IMAGE_TOKEN] * 4, *rng.integers(5, VOCAB, 2 + row)] for row in range(rows)]
    pixels = rng.standard_normal((rows, 3, 4, 4)).astype(np.float32)
    batch = batch_prompts([[int(i) for i in row] for row in ids], (IMAGE_TOKEN,), 0)
    patches = np.arange(rows * 4).reshape(rows, 4, 1)
    return replace(batch, vision_inputs={"pixel_values": pixels, "visual_patches": patches})


def toy_forward(
    weights: dict[str, np.ndarray], schedule: Schedule, batch: PromptBatch, row: int, answer: list[int]
) -> dict:
    """One row, without padding and without a cache: logits after the prompt and `answer`, and what was kept."""
    real = batch.attention_mask[row] == 1
    ids, positions = batch.input_ids[row][real], batch.position_ids[row][real]
    pixels = batch.vision_inputs["pixel_values"][row].reshape(3, 2, 2, 2, 2).transpose(1, 3, 0, 2, 4).reshape(4, 12)
    features = pixels @ weights["vision"]
    visual = np.flatnonzero(ids == IMAGE_TOKEN)
    kept = np.arange(4)
    if schedule.vision:
        kept = np.sort(np.argsort(-(features**2).sum(-1), kind="stable")[:3])
    stay = np.ones(len(ids), dtype=bool)
    stay[np.delete(visual, kept)] = False
    is_visual = np.concatenate([(ids == IMAGE_TOKEN)[stay], np.zeros(len(answer), dtype=bool)])
    ids = np.concatenate([ids[stay], np.array(answer, dtype=np.int64)])
    positions = np.concatenate([positions[stay], positions[-1] + 1 + np.arange(len(answer))])
    h = weights["embed"][ids]
    h[is_visual] = features[kept]
    h = h + positions[:, None].astype(np.float32) * 0.125
    context, lengths, dropped, before = 0, [], None, None
    for i in (0, 1):
        if i == 1 and schedule.drops:
            norms = ((before @ weights["k0"])[is_visual] ** 2).sum(-1)
            dropped = np.sort(np.argsort(norms, kind="stable")[:2])
            keep = ~is_visual
            keep[np.flatnonzero(is_visual)[dropped]] = True
            h = h[keep]
        before = h
        lengths.append(len(h))
        context = context + (h @ weights[f"v{i}"]).sum(0)
        h = h + np.tanh(h @ weights[f"m{i}"])
    return {
        "logits": (context + h[-1]) @ weights["head"],
        "kept_patches": kept,
        "kept_visual": dropped,
        "lengths": lengths,
    }
