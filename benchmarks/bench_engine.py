"""What runs side by side on one device give, against the same runs one after another.

    python benchmarks/bench_engine.py [--runs 2] [--images 1024] [--width 0.25] [--rounds 3]

Each run trains VGG19 with tanh and batch normalization under Linear Backprop for an epoch on images of noise, with
the lab's `train`: batch 128, crops and flips, on a GPU in bf16. The local engine makes them in as many processes as
there are runs, which share the cores and the GPUs, and one after another in this one. The clock starts when every
process has made a run of one batch, so that no start-up is in it. The ratio is of the medians of the rounds, in which
the two take turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from harness import markdown, medians, where_and_when
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import vgg19
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Job, OnStep
from linear_backprop_lab.sweeps import Outcome, run_here, run_in_processes
from linear_backprop_lab.training import Recipe, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = 1.8 if DEVICE == "cuda" else 1.0
BATCH = 128
LEARNING_RATE = 0.01


def images(number: int) -> ImageDataset:
    """Noise in CIFAR-10's shape: speed does not depend on what it shows."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number + 10, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(number + 10) % 10
    classes = tuple("0123456789")
    return ImageDataset("noise", pixels[10:], labels[10:], pixels[:10], labels[:10], classes, "random numbers")


def network(width: float) -> nn.Module:
    """VGG19, tanh, Linear Backprop."""
    torch.manual_seed(0)
    model = vgg19(activation=nn.Tanh, width=width, batch_norm=True, classes=10, pooling="max")
    lb.convert(model)
    return model


def train_with_the_lab(run: Run, number: int, width: float, on_step: OnStep = lambda step: None) -> None:
    """An epoch of the lab's loop, records included."""
    precision = "bf16" if DEVICE == "cuda" else "float32"
    recipe = Recipe(epochs=1, batch_size=BATCH, learning_rate=LEARNING_RATE, precision=precision)
    train(network(width), images(number), recipe, run, device=DEVICE, on_step=on_step)


def several_runs(runs: int, number: int, width: float, rounds: int) -> tuple[float, float]:
    """Images a second over all runs: side by side, and one after another."""

    def sweep(side_by_side: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return sweep_seconds(Path(folder), runs, number, width, side_by_side)

    taken = medians({"beside": partial(sweep, True), "after": partial(sweep, False)}, rounds)
    return runs * number / taken["beside"], runs * number / taken["after"]


def sweep_seconds(root: Path, runs: int, number: int, width: float, side_by_side: bool) -> float:
    """Seconds of the runs, from the end of the last warm-up to the end of the last run."""
    warm_ups = [Run(root, {"experiment": "warm-up", "index": index}) for index in range(runs)]
    jobs = [Job(run, "warm-up", 1, partial(train_with_the_lab, run, BATCH, width)) for run in warm_ups]
    for index in range(runs):
        run = Run(root, {"experiment": "timed", "index": index})
        jobs.append(Job(run, f"run {index}", -(-number // BATCH), partial(after_all, warm_ups, run, number, width)))
    ended: list[float] = []

    def tell(index: int, told: int | Outcome) -> None:
        if isinstance(told, Outcome):
            if told.state != "done":
                raise RuntimeError(told.error)
            ended.append(time.perf_counter())

    if side_by_side:
        run_in_processes(jobs, tell, workers=runs)
    else:
        run_here(jobs, tell)
    return ended[-1] - ended[runs - 1]


def after_all(others: list[Run], run: Run, number: int, width: float, on_step: OnStep) -> None:
    """Make a run once the others are complete."""
    while not all(other.is_complete for other in others):
        time.sleep(0.001)
    train_with_the_lab(run, number, width, on_step)


def main() -> None:
    """Print images a second over all runs, and whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4 if DEVICE == "cuda" else 2)
    parser.add_argument("--images", type=int, default=50_000 if DEVICE == "cuda" else 1024)
    parser.add_argument("--width", type=float, default=1.0 if DEVICE == "cuda" else 0.25)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    beside, after = several_runs(arguments.runs, arguments.images, arguments.width, arguments.rounds)
    print(f"{where_and_when()}\n")
    print(
        f"{arguments.runs} runs of VGG19, width {arguments.width:g}, {arguments.images} images each, "
        f"median of {arguments.rounds} rounds\n"
    )
    rows = [("side by side", f"{beside:.0f}"), ("one after another", f"{after:.0f}")]
    print(markdown(("runs", "images a second, of all"), rows))
    state = "met" if beside / after >= TARGET else "MISSED"
    print(f"\nTarget on {DEVICE}: at least {TARGET:g} times one after another; {beside / after:.2f}: {state}")


if __name__ == "__main__":
    main()
