"""What the engine gives: one run against a plain PyTorch loop, and runs side by side against one after another.

    python benchmarks/bench_engine.py [--images 1024] [--width 0.25] [--rounds 3] [--runs 2]

The first comparison trains VGG19 with tanh and batch normalization under Linear Backprop for an epoch, batch 128,
random crops and flips, with the lab's `train` and with the loop usually written: a `Dataset` whose images are
transformed one at a time on the CPU, a `DataLoader`, eager, a loss read every step. Both train in full precision on all
cores; on a GPU the lab's loop takes bf16, which the peer does not. The lab's records and its judging of ten test images
are in its time.

The second makes the same runs with the local engine, in as many processes as there are runs and one after another in
this one. The clock starts when every process has made a run of one batch, so that no start-up is in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.experiments import Job, OnStep
from linear_backprop_lab.models import vgg19
from linear_backprop_lab.records import Run
from linear_backprop_lab.sweeps import Outcome, run_here, run_in_processes
from linear_backprop_lab.training import Recipe, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET_OF_ONE = 5.0 if DEVICE == "cuda" else 1.0
TARGET_OF_SEVERAL = 1.8 if DEVICE == "cuda" else 1.0
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


class Transformed(Dataset[tuple[Tensor, int]]):
    """Images padded, cropped, mirrored and normalized one at a time, as torchvision's transforms do."""

    def __init__(self, data: ImageDataset) -> None:
        self.images, self.labels = data.train_images, data.train_labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image, float32 (3, 32, 32), and its label."""
        image = F.pad(self.images[index].float() / 255, (4,) * 4)
        top, left = torch.randint(9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image - 0.5) / 0.25, self.labels[index]


def train_plainly(number: int, width: float) -> None:
    """An epoch of the loop usually written."""
    model = network(width).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loader = DataLoader(Transformed(images(number)), BATCH, shuffle=True)
    total = 0.0
    for batch, labels in loader:
        loss = F.cross_entropy(model(batch.to(DEVICE)), labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


def one_run(number: int, width: float, rounds: int) -> tuple[float, float]:
    """Images a second of the lab's loop and of the plain one."""

    def lab() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return seconds(lambda: train_with_the_lab(Run(Path(folder), {"experiment": "one"}), number, width))

    taken = medians({"lab": lab, "plain": lambda: seconds(lambda: train_plainly(number, width))}, rounds)
    return number / taken["lab"], number / taken["plain"]


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
    """Print both comparisons, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000 if DEVICE == "cuda" else 1024)
    parser.add_argument("--width", type=float, default=1.0 if DEVICE == "cuda" else 0.25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=4 if DEVICE == "cuda" else 2)
    arguments = parser.parse_args()

    print(f"{where_and_when()}\n")
    print(f"VGG19, width {arguments.width:g}, {arguments.images} images, median of {arguments.rounds} rounds\n")
    rows = [
        ("one run", "plain loop", TARGET_OF_ONE, *one_run(arguments.images, arguments.width, arguments.rounds)),
        (
            f"{arguments.runs} runs side by side",
            "one after another",
            TARGET_OF_SEVERAL,
            *several_runs(arguments.runs, arguments.images, arguments.width, arguments.rounds),
        ),
    ]
    columns = ("what", "images/s", "against", "images/s", "times", "target")
    table = [(w, f"{a:.0f}", against, f"{b:.0f}", f"{a / b:.2f}", f"{t:g}") for w, against, t, a, b in rows]
    print(markdown(columns, table))
    missed = [what for what, _, target, ours, theirs in rows if ours / theirs < target]
    print(f"\nTargets: {'MISSED by ' + ', '.join(missed) if missed else 'met'}")


if __name__ == "__main__":
    main()
