"""What a training step costs: Backprop, the collapsed passes, and the forward pass alone.

    python benchmarks/bench_collapse.py [--rounds 7] [--quick] [--bf16]

A step is forward, cross-entropy and backward, without the optimizer, which is the same for all. All take turns in
one run; the median of the rounds. `forward` runs without a graph. Memory is how far one step raises the peak of the
resident memory (Linux), each way in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import vgg19

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MICRO_BATCH = 256


def mlp() -> nn.Module:
    """784-1024-1024-1024-1024-10, ReLU."""
    widths = [784, 1024, 1024, 1024, 1024]
    layers = [m for n, k in itertools.pairwise(widths) for m in (nn.Linear(n, k), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


class Residual(nn.Module):
    """Six residual blocks of two 3x3 convolutions, 64 channels, batch normalization in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(12))
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(12))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        h = F.relu(self.stem(x))
        for k in range(0, 12, 2):
            z = F.relu(self.norms[k](self.convs[k](h)))
            h = F.relu(self.norms[k + 1](self.convs[k + 1](z)) + h)
        return self.head(h.mean((2, 3)))


@dataclass(frozen=True)
class Work:
    """A model and its input's shape."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


WORKS = {
    "MLP 784-4x1024-10": Work(mlp, (784,)),
    "VGG19, average pooling": Work(lambda: vgg19(activation=nn.ReLU, batch_norm=False, pooling="average"), (3, 32, 32)),
    "residual convnet, batch norm in eval mode": Work(lambda: Residual().eval(), (3, 32, 32)),
}
SIZES = {"MLP 784-4x1024-10": (1024, 4096)}
COLLAPSED = {
    "Linear, collapsed": lb.Linear(),
    "LocallyExact(Linear)": lb.LocallyExact(lb.Linear()),
    "LocallyExact(MeanLinear)": lb.LocallyExact(lb.MeanLinear()),
}


def step(run: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, bf16: bool) -> None:
    """Forward, loss, backward."""
    with torch.autocast(DEVICE, torch.bfloat16) if bf16 else nullcontext():
        loss = F.cross_entropy(run(x), target)
    loss.backward()


def forward_only(run: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, bf16: bool) -> None:
    """Forward and loss without a graph."""
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16) if bf16 else nullcontext():
        F.cross_entropy(run(x), target)


def time_row(work: Work, samples: int, rounds: int, bf16: bool) -> dict[str, float]:
    """Median seconds of every way of making a step."""
    torch.manual_seed(0)
    model = work.build().to(DEVICE)
    x, target = torch.randn(samples, *work.shape, device=DEVICE), torch.randint(10, (samples,), device=DEVICE)
    ways: dict[str, Callable[[], None]] = {
        "Backprop": partial(step, model, x, target, bf16),
        "forward": partial(forward_only, model, x, target, bf16),
    }
    for name, rule in COLLAPSED.items():
        ways[name] = partial(step, lb.collapse(model, rule), x, target, bf16)

    def clocked(way: Callable[[], None]) -> float:
        model.zero_grad()
        return seconds(way)

    return medians({name: partial(clocked, way) for name, way in ways.items()}, rounds)


def peak_growth(way: str, samples: int) -> None:
    """Print the megabytes by which one step of the MLP raises the process's peak memory."""
    torch.manual_seed(0)
    model = mlp()
    fast = lb.collapse(model)
    x, target = torch.randn(samples, 784), torch.randint(10, (samples,))
    step(fast, x[:64], target[:64], False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = peak_resident()
    if way == "Backprop":
        step(model, x, target, False)
    elif way == "collapsed":
        step(fast, x, target, False)
    else:
        micro = zip(x.split(MICRO_BATCH), target.split(MICRO_BATCH), strict=True)
        with fast.accumulate() if way == "collapsed, micro-batches" else nullcontext():
            run = fast if way == "collapsed, micro-batches" else model
            for part, labels in micro:
                (F.cross_entropy(run(part), labels, reduction="sum") / samples).backward()
    print(peak_resident() - before)


def peak_resident() -> float:
    """The peak of the process's resident memory, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_row(samples: int) -> dict[str, float]:
    """Megabytes of each way, each in a fresh process."""
    ways = ("Backprop", "Backprop, micro-batches", "collapsed", "collapsed, micro-batches")
    command = [sys.executable, __file__, "--peak"]
    return {w: float(subprocess.check_output([*command, w, str(samples)], text=True).split()[-1]) for w in ways}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="the smallest size of each only")
    parser.add_argument("--bf16", action="store_true", help="in autocast; slow on processors without bf16")
    parser.add_argument("--peak", nargs=2, metavar=("WAY", "SAMPLES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak_growth(arguments.peak[0], int(arguments.peak[1]))
        return
    print(
        f"Measured on {where_and_when()}. {arguments.rounds} rounds. "
        f"{'bf16 autocast' if arguments.bf16 else 'float32'}.\n"
    )
    rows = []
    for name, work in WORKS.items():
        for samples in SIZES.get(name, (128,))[: 1 if arguments.quick else None]:
            times = time_row(work, samples, arguments.rounds, arguments.bf16)
            cells = [f"{times['Backprop'] * 1e3:.0f} ms", f"{times['forward'] * 1e3:.0f} ms"]
            for rule in COLLAPSED:
                gain, over = times["Backprop"] / times[rule], times[rule] / times["forward"]
                cells.append(f"{gain:.2f}x, {over:.2f} of forward")
            rows.append([name, str(samples), *cells])
    print(markdown(["work", "N", "Backprop", "forward", *COLLAPSED], rows), flush=True)
    if DEVICE == "cpu":
        samples = 1024 if arguments.quick else 4096
        memory = memory_row(samples)
        print(f"\nPeak memory of a step, the MLP, N = {samples}, micro-batches of {MICRO_BATCH}:\n")
        print(markdown(list(memory), [[f"{megabytes:.0f} MB" for megabytes in memory.values()]]))


if __name__ == "__main__":
    main()
