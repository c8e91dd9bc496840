"""How long the best sets of drops take on a table of the size that a 7B model has.

    python benchmarks/sets.py [--best 12] [--max-drops 4]

32 layers, 576 visual tokens, 12 drop points, 8 keep counts, 10 rules; losses are made up (they fall with the keep count
and with the layer, times a factor drawn for each choice). Prints for each constraint the seconds of this process's
CPU and the best set. Writes results/sets.json.
"""

import argparse
import json
import random
import time
from pathlib import Path

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule
from vitcop.calibrate.schedule.cost import DecoderShape
from vitcop.calibrate.search.constraints import Constraint, CostModel, flops_cost, token_cost
from vitcop.calibrate.search.sets import best_sets
from vitcop.export.measure import machine_facts

NUM_LAYERS, NUM_VISUAL, TEXT_TOKENS = 32, 576, 64
POINTS = (AT_INPUT, 1, 2, 4, 8, 12, 16, 18, 20, 22, 24, 28)
COUNTS = (16, 32, 64, 96, 144, 216, 288, 400)
RULES = (
    *(
        Rule(order=order, head_reduction=heads)
        for order in ("smallest", "largest")
        for heads in ("mean_key", "mean_norm")
    ),
    Rule(score="text_query", order="largest"),
    Rule(score="vision_saliency", order="largest"),
    Rule(score="uniform", order="largest"),
    Rule(op="merge"),
    Rule(op="merge", merge="mean"),
    Rule(op="merge", merge="mean", cutoff_quantile=0.2),
)
SHAPE = DecoderShape(hidden=4096, intermediate=11008, num_heads=32, num_kv_heads=32, head_dim=128, vocab=32000)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--best", type=int, default=12)
    parser.add_argument("--max-drops", type=int, default=4)
    arguments = parser.parse_args()
    losses = made_losses()
    tokens, flops = token_cost(NUM_LAYERS, NUM_VISUAL), flops_cost(SHAPE, NUM_LAYERS, NUM_VISUAL, TEXT_TOKENS)
    latency = latency_cost()
    rows = []
    print(f"{len(losses)} choices, the {arguments.best} best sets of at most {arguments.max_drops}")
    print(f"{'constraint':<24}{'CPU s':>8}  best")
    for cost, kind, value in (
        (tokens, "budget", 1 / 3),
        (tokens, "budget", 1 / 9),
        (flops, "flops", 0.3 * flops.of(())),
        (latency, "latency_ms", 0.3 * latency.of(())),
        (tokens, "max_loss", 1.5),
    ):
        start = time.process_time()
        constraint = Constraint(kind=kind, value=value)
        found = best_sets(losses, cost, constraint, max_drops=arguments.max_drops, num_best=arguments.best)
        seconds = time.process_time() - start
        rows.append(
            {
                "constraint": kind,
                "value": value,
                "cpu_seconds": round(seconds, 2),
                "best": found[0].name,
            }
        )
        print(f"{f'{kind} {value:.4g}':<24}{seconds:>8.2f}  {found[0].name}")
    results = {"benchmark": "sets", "machine": machine_facts(), "choices": len(losses), "rows": rows}
    out = Path(__file__).parent / "results" / "sets.json"
    out.write_text(json.dumps(results | vars(arguments), indent=2, sort_keys=True) + "\n")


def made_losses() -> dict[Choice, float]:
    """In nats."""
    stream = random.Random(0)
    return {
        Choice(layer=layer, keep=keep, rule=rule): 3 * (1 - keep / NUM_VISUAL) ** 2 * (1.2 - layer / NUM_LAYERS) * noise
        for layer in POINTS
        for keep in COUNTS
        for rule in RULES
        for noise in (stream.uniform(0.6, 1.4),)
        if layer != AT_INPUT or rule.op == "select"
    }


def latency_cost() -> CostModel:
    """Milliseconds of no machine: what matters is that each rule costs another time for each count that it finds."""
    stream = random.Random(1)
    slopes = {rule: stream.uniform(1e-5, 2e-4) for rule in RULES}
    return CostModel(
        num_layers=NUM_LAYERS,
        num_visual=NUM_VISUAL,
        layer=lambda count: 0.2 + 2e-3 * (count + TEXT_TOKENS) + 1e-6 * (count + TEXT_TOKENS) ** 2,
        drop=lambda choice, count: 0.02 + slopes[choice.rule] * count,
        fixed=1.0,
    )


if __name__ == "__main__":
    main()
