"""Train the model from nothing: first the vision tower with auxiliary heads, then projector and language model.

    python train.py                         # two processes on the CPU; writes model/ and train.log
    python train.py --device cuda           # one process on a GPU

Both stages draw fresh scenes at every step. The learning rate follows the share of the steps done, or of the minutes
where `--minutes` ends a stage earlier; without that limit a run depends on its seed alone.
"""

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from batches import draw_batch, pack_questions, patch_labels, stack_pixels
from model import build_model, num_parameters, packed_logits, standardise_projector, tower_features
from muon import Muon
from questions import TYPES
from shapes import stream
from torch.nn import functional as F
from vision import PatchHeads, patch_hits, patch_loss
from words import save_processor

HERE = Path(__file__).parent
TRAIN_STREAM, DEV_STREAM = 1, 2  # generate.py uses 10 and above
EOS_WEIGHT = 0.1  # that an answer ends after one word is learned at once
# Share of the language stage up to which scenes have this many objects.
CURRICULUM = ((0.1, (1, 2)), (0.3, (2, 3)), (1.0, (2, 4)))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Batch is images a step over all processes; minutes may be infinite."""

    name: str
    steps: int
    minutes: float
    batch: int
    muon_lr: float
    adam_lr: float


class Run:
    """What the stages share: this process's rank, its random stream, the log."""

    def __init__(self, args, rank: int):
        self.args, self.rank, self.world = args, rank, args.processes
        self.device = torch.device(args.device)
        self.rng = stream(args.seed, TRAIN_STREAM, rank)
        self.start = time.monotonic()
        self.log_file = open(args.log, "w", encoding="utf-8") if rank == 0 else None  # noqa: SIM115

    def log(self, text: str) -> None:
        if self.rank == 0:
            line = f"{(time.monotonic() - self.start) / 60:6.2f} min  {text}"
            print(line, flush=True)
            self.log_file.write(line + "\n")
            self.log_file.flush()

    def reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def progress(self, stage: Stage, step: int, since: float) -> float:
        """Share of the stage that is done, the same in every process."""
        share = max(step / stage.steps, (time.monotonic() - since) / 60 / stage.minutes)
        value = torch.tensor([share], dtype=torch.float64)
        if self.world > 1:
            dist.broadcast(value, 0)
        return value.item()


def rate(share: float) -> float:
    """Factor of the learning rate: warm up, stay, then fall to zero over the last two thirds."""
    return min(1.0, share / 0.02, (1 - share) / 0.65)


def optimizers(stage: Stage, modules: dict) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices of the transformer layers, AdamW for all else."""
    matrices, others = [], []
    for module in modules.values():
        for name, p in module.named_parameters():
            if p.requires_grad:
                (matrices if p.ndim == 2 and "layers." in name else others).append(p)
    muon = Muon(matrices, lr=stage.muon_lr, weight_decay=0.05)
    adam = torch.optim.AdamW(others, lr=stage.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def train_stage(run: Run, stage: Stage, modules: dict, loss_of, evaluate) -> None:
    """Steps until the stage's share is 1; `loss_of(share, images)` draws its own batch."""
    opts = optimizers(stage, modules)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    params = [p for o in opts for g in o.param_groups for p in g["params"]]
    since = told = time.monotonic()
    mean, step = 0.0, 0
    while (share := run.progress(stage, step, since)) < 1:
        for opt, lrs in zip(opts, base, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * rate(share)
        loss = loss_of(share, stage.batch // run.world)
        loss.backward()
        # One flat message a step: many small ones cost more than the sum itself.
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = run.reduce(torch.cat([p.grad.flatten() for p in params])) / run.world
        flat *= min(1.0, 5.0 / (flat.norm().item() + 1e-6))
        for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad.copy_(part.view_as(p))
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        mean += (loss.item() - mean) / min(step, 50)
        if step % 50 == 0:
            run.log(f"{stage.name} step {step:5d}  loss {mean:.4f}  lr {rate(share):.3f}")
        due = torch.tensor([float(time.monotonic() - told > run.args.evaluate_every)], dtype=torch.float64)
        if run.world > 1:
            dist.broadcast(due, 0)
        if due.item():
            evaluate(f"{stage.name} step {step:5d}  held-out")
            told = time.monotonic()
    evaluate(f"{stage.name} end, step {step}  held-out")


def percent(hits: torch.Tensor, names: list[str]) -> str:
    """hits: [names, right and asked]."""
    each = "  ".join(f"{name} {100 * r / max(n, 1):.1f}" for name, (r, n) in zip(names, hits.tolist(), strict=True))
    right, asked = hits.sum(0).tolist()
    return f"{each}  all {100 * right / max(asked, 1):.1f}"


def save(run: Run, model) -> None:
    """Write the checkpoint beside its place, then rename, so that a reader never sees half of one."""
    if run.rank:
        return
    target = Path(run.args.out)
    fresh, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(fresh)
    save_processor(fresh)
    (fresh / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def train_tower(run: Run, model, stage: Stage) -> None:
    heads = PatchHeads(model.config.vision_config.hidden_size).to(run.device)

    def forward(scenes):
        labels = patch_labels(scenes)
        labels = type(labels)(*(getattr(labels, f).to(run.device) for f in labels.__dataclass_fields__))
        return heads(*tower_features(model, stack_pixels(scenes).to(run.device))), labels

    def loss_of(share: float, images: int) -> torch.Tensor:
        return patch_loss(*forward(draw_batch(run.rng, images, "train", 3, 5)))

    @torch.no_grad()
    def evaluate(title: str) -> None:
        scenes = draw_batch(stream(run.args.seed, DEV_STREAM, run.rank), 96 // run.world, "dev", 2, 4)
        hits = patch_hits(*forward(scenes))
        run.log(f"{title} patches: {percent(run.reduce(torch.stack(list(hits.values()))), list(hits))}")

    train_stage(run, stage, {"tower": model.model.vision_tower, "heads": heads}, loss_of, evaluate)


def train_language(run: Run, model, stage: Stage) -> None:
    """The tower is frozen, so its share of a step is a forward without gradients."""
    model.model.vision_tower.requires_grad_(False)

    @torch.no_grad()
    def patches(scenes) -> torch.Tensor:
        return tower_features(model, stack_pixels(scenes).to(run.device))[0][:, 1:]

    def start() -> None:
        scenes = draw_batch(stream(run.args.seed, TRAIN_STREAM, run.world), 64, "train", 2, 4)
        standardise_projector(model, patches(scenes).flatten(0, 1))

    def forward(rng, scenes):
        words, at, follows, kinds = (t.to(run.device) for t in pack_questions(rng, scenes, run.args.questions))
        return packed_logits(model, patches(scenes), words, at), follows, kinds

    def loss_of(share: float, images: int) -> torch.Tensor:
        least, most = next(objects for until, objects in CURRICULUM if share <= until)
        logits, follows, _ = forward(run.rng, draw_batch(run.rng, images, "train", least, most))
        answer = F.cross_entropy(logits[:, :, 0].flatten(0, 1), follows[:, :, 0].flatten())
        end = F.cross_entropy(logits[:, :, 1].flatten(0, 1), follows[:, :, 1].flatten())
        return answer + EOS_WEIGHT * end

    @torch.no_grad()
    def evaluate(title: str) -> None:
        rng = stream(run.args.seed, DEV_STREAM, run.rank)
        hits = torch.zeros(len(TYPES), 2)
        for _ in range(4):
            logits, follows, kinds = forward(rng, draw_batch(rng, 32 // run.world, "dev", 2, 4))
            right = (logits.argmax(-1) == follows).all(-1)
            for kind in range(len(TYPES)):
                hits[kind] += torch.tensor([float((right & (kinds == kind)).sum()), float((kinds == kind).sum())])
        run.log(f"{title} {percent(run.reduce(hits), list(TYPES))}")
        save(run, model)

    torch.manual_seed(run.args.seed)
    start()
    modules = {n: getattr(model.model, n) for n in ("language_model", "multi_modal_projector")} | {"h": model.lm_head}
    train_stage(run, stage, modules, loss_of, evaluate)


def work(rank: int, args, meeting: str) -> None:
    torch.set_num_threads(args.threads)
    if args.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=args.processes)
    run = Run(args, rank)
    torch.manual_seed(args.seed)
    model = build_model().to(run.device)
    tower_minutes, language_minutes = args.minutes
    run.log(
        f"{num_parameters(model)} parameters, torch {torch.__version__}, {args.processes} processes of "
        f"{args.threads} threads on {run.device.type}, seed {args.seed}"
    )
    tower = Stage(name="tower", steps=args.steps[0], minutes=tower_minutes, batch=32, muon_lr=0.02, adam_lr=2e-3)
    language = Stage(
        name="language", steps=args.steps[1], minutes=language_minutes, batch=16, muon_lr=0.02, adam_lr=2e-3
    )
    train_tower(run, model, tower)
    save(run, model)
    train_language(run, model, language)
    if args.processes > 1:
        dist.destroy_process_group()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=str(HERE / "model"))
    parser.add_argument("--log", default=str(HERE / "train.log"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--processes", type=int, help="default: two on the CPU, one on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--questions", type=int, default=14, help="questions on each image of the language stage")
    parser.add_argument("--steps", type=int, nargs=2, default=(1481, 1310), metavar=("TOWER", "LANGUAGE"))
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=2,
        default=(float("inf"),) * 2,
        metavar=("TOWER", "LANGUAGE"),
        help="end a stage after so many minutes, with the learning rate at zero by then",
    )
    parser.add_argument("--evaluate-every", type=float, default=120, metavar="SECONDS")
    args = parser.parse_args()
    args.processes = args.processes or (2 if args.device == "cpu" else 1)
    return args


def main() -> None:
    args = parse()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as meeting:
        if args.processes == 1:
            work(0, args, meeting)
        else:
            torch.multiprocessing.spawn(work, (args, meeting), nprocs=args.processes)


if __name__ == "__main__":
    main()
