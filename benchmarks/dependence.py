"""What the scores of the embedded model tell, layer by layer, and whether the measures of dependence can be believed.

    python benchmarks/dependence.py [--left-out 16]

First the observation of the example's 96 calibration samples, as `calibrate` makes it. Then leaving one out: for some
samples each visual token is hidden, by itself, from a layer on, and the KL of the answer is what it was worth there.
Attention, gradient × input, and the gradient of a token's presence (a bias on its attention logits from that layer on)
are held against that. Writes results/dependence.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from observation_table import observation_table

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.image_clusters import image_clusters
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.observe.dependence import answer_attention, gradient_times_input, remaining
from vitcop.calibrate.observe.observing import observe
from vitcop.calibrate.observe.scores import first_tokens
from vitcop.calibrate.observe.teacher_forcing import Forced, LayerPass, walk
from vitcop.calibrate.run.attention_masks import causal_mask
from vitcop.calibrate.run.vision_stage import run_vision
from vitcop.calibrate.stats.cluster_interval import Interval
from vitcop.calibrate.stats.ranks import first_places, held_share, spearman
from vitcop.export.measure import machine_facts

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"


def main() -> None:
    """Print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--left-out", type=int, default=16, help="samples of which every token is left out once")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(EXAMPLE / "model")
    model, processor, family = load_model(checkpoint)
    judge = Evaluator(
        model,
        processor,
        family,
        eos_ids=checkpoint.eos_ids,
        base=0,
        settings=CalibrationSettings(),
        store=Store(None),
    )
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", folder], check=True, stdout=sys.stderr)
        samples = load_samples(Path(folder) / "calibration.jsonl")
        found = observe(model, family, judge.vision, [judge.part(samples)])
        print(observation_table(found))
        print(observation_table(found, "gradient"))
        # Spread over the file, so over the pictures.
        chosen = samples[:: max(1, len(samples) // arguments.left_out)][: arguments.left_out]
        pictures = image_clusters(chosen)
        tables = []
        for i, sample in enumerate(chosen):
            part = judge.part([sample])
            ((_, batch),) = part.prepared
            tables.append(of_sample(model, family, batch, part.targets[sample.id].tokens))
            print(f"{i + 1} of {len(chosen)}", end="\r", file=sys.stderr)
    rows = []
    print("Against the KL of leaving one token out: Spearman, and KL held by the ninth that each ranks first\n")
    for layer in sorted(tables[0]):
        for name in tables[0][layer]:
            values = np.array([table[layer][name] for table in tables])
            rank = Interval.of(values[:, 0], pictures, least=-1.0, most=1.0)
            rows.append(
                {
                    "layer": layer,
                    "measure": name,
                    "spearman": vars(rank),
                    "median_share": float(np.median(values[:, 1])),
                }
            )
            print(
                f"before layer {layer}  {name:<18} {rank.mean:+.2f} ({rank.low:+.2f} to {rank.high:+.2f})   "
                f"{100 * np.median(values[:, 1]):.0f} % (median)"
            )
    results = {
        "benchmark": "dependence",
        "machine": machine_facts(),
        "left_out_samples": len(chosen),
        "left_out": rows,
        "observation": found.to_json(),
    }
    (HERE / "results" / "dependence.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def of_sample(model, family, batch, tokens) -> dict[int, dict[str, tuple[float, float]]]:
    """By layer and measure: Spearman's agreement with the KL of leaving each token out, and the share of that KL on the
    ninth of the tokens that the measure ranks first. A batch of one."""
    forced, output = Forced.of(batch, [tokens], model.device), run_vision(model, family, batch)
    seen: list[LayerPass] = []
    with torch.inference_mode():
        logits = walk(model, family, forced, output.planes, seen.append)
    attention = remaining(torch.stack([answer_attention(each, forced, window=None) for each in seen]))
    measures = {
        "attention": attention,
        "gradient × input": gradient_times_input(model, family, forced, output.planes),
        "presence gradient": presence_gradient(model, family, forced, output.planes),
    }
    told = logits.float().log_softmax(dim=-1)
    found = {}
    for layer in range(1, family.num_layers):
        worth_1V = left_out(model, family, forced, seen[layer].hidden, layer, told)
        count = first_tokens(worth_1V.shape[1])
        found[layer] = {
            name: (
                float(spearman(each[layer].numpy(), worth_1V)[0]),
                float(held_share(worth_1V, first_places(each[layer].numpy(), count))[0]),
            )
            for name, each in measures.items()
        }
    return found


@torch.inference_mode()
def left_out(model, family, forced, hidden_1XH, layer: int, told_1TX) -> np.ndarray:
    """KL(original ‖ without the token), mean over the answer tokens: fp64 [1,V]; a token is hidden from `layer` on."""
    decoder, index_V = family.language_model(model), forced.prompt.visual_index[0]
    num_visual, length = len(index_V), forced.prompt.mask.shape[1]
    masks = causal_mask(forced.prompt.mask, length, "sdpa", torch.float32).expand(num_visual, -1, -1, -1).clone()
    masks[torch.arange(num_visual), 0, :, index_V] = False
    masks |= torch.eye(length, dtype=torch.bool)
    hidden = hidden_1XH.expand(num_visual, -1, -1)
    rotary = decoder.rotary_emb(hidden, position_ids=forced.prompt.positions.expand(num_visual, -1))
    for each in decoder.layers[layer:]:
        hidden = each(hidden, attention_mask=masks, position_embeddings=rotary)
    logits = family.lm_head(model)(decoder.norm(hidden[:, forced.length - 1 :]))
    kl_VT = (told_1TX.exp() * (told_1TX - logits.float().log_softmax(dim=-1))).sum(dim=-1)
    return kl_VT.double().mean(dim=1).clamp_min(0)[None].numpy()


def presence_gradient(model, family, forced, planes) -> torch.Tensor:
    """|Σ_{j ≥ l} ∂ log p(answer) / ∂b_j| where b_j is added to a token's attention logits in layer j: fp32 [L,B,V]."""
    decoder = family.language_model(model)
    biases = [torch.zeros(1, 1, 1, forced.prompt.mask.shape[1], requires_grad=True) for _ in decoder.layers]
    with biased(decoder, biases), torch.enable_grad():
        logits = walk(model, family, forced, [plane.clone() for plane in planes], lambda seen: None)
        told = logits.float().log_softmax(dim=-1).gather(2, forced.answers.unsqueeze(-1)).squeeze(-1)
        gradients = torch.autograd.grad((told * forced.told).sum(), biases)
    by_layer = torch.stack([gradient[:, 0, 0].gather(1, forced.prompt.visual_index) for gradient in gradients])
    return remaining(by_layer).abs()


@contextmanager
def biased(decoder, biases) -> Iterator[None]:
    """Each decoder layer adds its bias to the attention mask that it is given."""

    def add(bias):
        def before(module, args, kwargs):
            mask = kwargs["attention_mask"]
            floor = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            return args, kwargs | {"attention_mask": floor + bias}

        return before

    hooks = [
        layer.register_forward_pre_hook(add(bias), with_kwargs=True)
        for layer, bias in zip(decoder.layers, biases, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    main()
