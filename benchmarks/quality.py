"""What a budget costs in quality: the calibrated schedule beside the paper's preset, rules of other methods and
controls, on questions that no search has seen.

    python benchmarks/quality.py --store build/quality --write-docs
    python benchmarks/quality.py --store build/quality --exhaustive 1/9 0.05

Each budget is calibrated on the calibration and selection samples (or its schedule is given), then every method
answers the evaluation samples. All meet the budget by one accounting: the mean over the decoder layers of visual tokens
present / visual tokens of the unpruned model. Whatever was measured is kept in the store, and a run that was
interrupted goes on from there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import exhaustive
import quality_tables
from quality_methods import METHODS, OURS, PAPER, measure, methods_at
from stored_evaluator import StoredEvaluator

from vitcop.calibrate.core.digests import key_of
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.image_clusters import clusters_by_id
from vitcop.calibrate.data.samples import Sample, load_samples, samples_digest
from vitcop.calibrate.evaluate.evaluation import Losses, Part
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.processor_files import processor_digest
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.search.calibrating import calibrate
from vitcop.calibrate.work.executors.opening import open_executor
from vitcop.export.machine import machine_facts
from vitcop.pipeline.versions import stage_version

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"
OUT = Path(os.environ.get("OUT", HERE / "results"))
DOCS = HERE.parent / "docs" / "results.md"
BUDGETS = ("1/3", "2/9", "1/9", "0.05")
PART = 96
"""Samples measured at once: what an interruption can lose."""


def main() -> None:
    """Print the tables, write quality.json and, where asked for, the table of the docs."""
    arguments = parse(sys.argv[1:])
    if arguments.write_docs:
        quality_tables.split_docs(arguments.docs)  # Before an hour of measuring, not behind it.
    store = arguments.store and arguments.store / key_of(stage_version())
    sets = sample_sets(arguments)
    bench = Bench(arguments, sets, store)
    schedules = {}
    for name in arguments.budgets:
        given = arguments.schedule.get(name)
        schedules[name] = Schedule.load(given) if given else bench.calibrated(name)
    result = bench.result(schedules)
    if arguments.exhaustive:
        result["exhaustive"] = {name: bench.exhaustive(name) for name in arguments.exhaustive}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "quality.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print("\n".join([*quality_tables.lines(result), *quality_tables.grid_lines(result)]))
    if arguments.write_docs:
        quality_tables.write_docs(arguments.docs, quality_tables.markdown(result))


def parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EXAMPLE / "model")
    parser.add_argument("--data", type=Path, help="folder with the three JSONL files; generated where there is none")
    parser.add_argument("--evaluation", type=int, default=480, metavar="QUESTIONS", help="to generate (480)")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), metavar="BUDGET")
    parser.add_argument("--schedule", nargs="+", default=[], metavar="BUDGET=FILE", help="instead of calibrating")
    parser.add_argument(
        "--exhaustive", nargs="*", default=[], metavar="BUDGET", help="search the coarse grid there too"
    )
    parser.add_argument("--store", type=Path, help="folder for finished measurements")
    parser.add_argument("--max-new-tokens", type=int, default=CalibrationSettings.max_new_tokens)
    parser.add_argument("--workers", type=int, help="processes that calibrate; this one where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/results.md")
    parser.add_argument("--docs", type=Path, default=DOCS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    pairs = [item.partition("=")[::2] for item in arguments.schedule]
    arguments.schedule = {name: Path(file) for name, file in pairs}
    for name in arguments.schedule.keys() - set(arguments.budgets):
        parser.error(f"--schedule {name}=…: not one of the budgets {', '.join(arguments.budgets)}")
    return arguments


def share(name: str) -> float:
    """A budget by its name: "1/9" or "0.05"."""
    return float(Fraction(name))


def sample_sets(arguments: argparse.Namespace) -> dict[str, list[Sample]]:
    """calibration, selection, evaluation; generated below the store (or examples/shapes_vqa/data) without --data."""
    folder = arguments.data
    if folder is None:
        folder = (arguments.store or EXAMPLE) / "data"
        command = [sys.executable, EXAMPLE / "generate.py", "--out", folder]
        subprocess.run([*command, "--evaluation", str(arguments.evaluation)], check=True, stdout=sys.stderr)
    return {name: load_samples(folder / f"{name}.jsonl") for name in ("calibration", "selection", "evaluation")}


class Bench:
    """The model, its evaluator and the sample sets of one run."""

    def __init__(self, arguments: argparse.Namespace, sets: dict[str, list[Sample]], store: Path | None) -> None:
        self.sets, self.store, self.seed = sets, store, arguments.seed
        self.max_new_tokens, self.workers = arguments.max_new_tokens, arguments.workers
        self.checkpoint = Checkpoint.open(arguments.model)
        model, processor, self.family = load_model(self.checkpoint)

        def evaluator(batch_size: int) -> StoredEvaluator:
            return StoredEvaluator(
                model,
                processor,
                self.family,
                eos_ids=self.checkpoint.eos_ids,
                base=[self.checkpoint.fingerprint(), processor_digest(self.checkpoint.path), stage_version()],
                settings=CalibrationSettings(batch_size=batch_size, max_new_tokens=arguments.max_new_tokens),
                store=Store(store),
            )

        self.evaluator = evaluator(CalibrationSettings.batch_size)
        self.grid_evaluator = evaluator(exhaustive.BATCH_SIZE)
        self.clusters = clusters_by_id(sets["evaluation"])
        say("evaluation: the original's answers")
        self.parts = self._parts(sets["evaluation"])
        self.num_visual = max(batch.num_visual for part in self.parts for _, batch in part.prepared)

    def calibrated(self, name: str) -> Schedule:
        say(f"calibrating for budget {name}")
        found = calibrate(
            self.checkpoint,
            self.sets["calibration"],
            self.sets["selection"],
            budget=share(name),
            seed=self.seed,
            settings=CalibrationSettings(max_new_tokens=self.max_new_tokens, curve_budgets=()),
            store=self.store and self.store / "calibrate",
            open_executor=partial(open_executor, "local", num_workers=self.workers),
        )
        return found.schedule

    def result(self, schedules: dict[str, Schedule]) -> dict[str, Any]:
        """All tables as JSON; `schedules` by the name of their budget."""
        measured = {name: self._measured(name, schedule) for name, schedule in schedules.items()}
        losses = [found for found, _ in measured.values()]
        original = Losses.joined([self.evaluator.original(part) for part in self.parts])
        return {
            "benchmark": "quality",
            "machine": machine_facts(),
            "model": self.checkpoint.model_id,
            "num_visual": self.num_visual,
            "seed": self.seed,
            "samples": {
                name: {
                    "num": len(samples),
                    "images": len(set(clusters_by_id(samples).values())),
                    "digest": samples_digest(samples),
                }
                for name, samples in self.sets.items()
            },
            "original": quality_tables.estimates(original, self.clusters),
            "schedules": {name: json.loads(schedule.to_json()) for name, schedule in schedules.items()},
            "budgets": {name: {"methods": rows, **self._share(found)} for name, (found, rows) in measured.items()},
            "average": {method: self._average(method, losses) for method in METHODS},
            "front": quality_tables.front(measured, self.clusters, self.seed),
        }

    def _measured(self, name: str, ours: Schedule) -> tuple[dict[str, Losses | None], dict[str, Any]]:
        """(losses, rows) of all methods at one budget; None where a rule cannot meet it."""
        say(f"measuring at budget {name}")
        methods = methods_at(share(name), ours, self.evaluator, self.num_visual, self.seed)
        losses = {key: method and measure(method, self.evaluator, self.parts) for key, method in methods.items()}
        rows = {
            key: method
            and quality_tables.row(
                losses[key],
                losses[OURS],
                self.clusters,
                name=key,
                budget=sum(method.layer_counts) / len(method.layer_counts) / self.num_visual,
                layer_counts=method.layer_counts,
                seed=self.seed,
            )
            for key, method in methods.items()
        }
        return losses, rows

    def _share(self, losses: dict[str, Losses | None]) -> dict[str, Any]:
        if losses[PAPER] is None:
            return {"share_of_paper": None}
        share = quality_tables.share_of(losses[OURS], losses[PAPER], self.clusters, self.seed)
        return {"share_of_paper": share}

    def _average(self, method: str, budgets: list[dict[str, Losses | None]]) -> dict[str, Any] | None:
        met = [losses for losses in budgets if losses[method] is not None]
        if not met:
            return None
        theirs, ours = [losses[method] for losses in met], [losses[OURS] for losses in met]
        return quality_tables.average_row(theirs, ours, self.clusters, name=method, seed=self.seed)

    def exhaustive(self, name: str) -> dict[str, Any]:
        """The grid's best beside the paper's preset, on the selection and on the evaluation samples."""
        schedules = exhaustive.grid(self.family.num_layers, self.num_visual, share(name), self.family.search_scores)
        say(f"grid at budget {name}: {len(schedules)} schedules")
        order = list(self.sets["calibration"])
        random.Random(self.seed).shuffle(order)
        cuts = [0, *sorted({-(-len(order) // 4), -(-len(order) // 2), len(order)})]
        rungs = [self.grid_evaluator.part(order[a:b]) for a, b in pairwise(cuts)]
        selection = self._parts(self.sets["selection"])
        found = exhaustive.best_of(schedules, self.grid_evaluator, rungs, selection, say)
        methods = methods_at(share(name), found.best, self.evaluator, self.num_visual, self.seed)
        tables: dict[str, Any] = {}
        for split, parts in (("selection", selection), ("evaluation", self.parts)):
            clusters = clusters_by_id(self.sets[split])
            best, paper = (
                None if methods[key] is None else measure(methods[key], self.evaluator, parts) for key in (OURS, PAPER)
            )
            tables[split] = {
                "best": quality_tables.estimates(best, clusters),
                "paper": None if paper is None else quality_tables.estimates(paper, clusters),
                "share_of_paper": None if paper is None else quality_tables.share_of(best, paper, clusters, self.seed),
            }
        return {
            "num_tried": found.num_tried,
            "best": json.loads(found.best.to_json()),
            "finalists": [
                {"schedule": json.loads(item.to_json()), **quality_tables.estimates(losses)}
                for item, losses in found.finalists
            ],
            **tables,
        }

    def _parts(self, samples: list[Sample]) -> list[Part]:
        return [self.evaluator.part(samples[i : i + PART]) for i in range(0, len(samples), PART)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
