"""How far one training step raises the peak memory, and how long it takes, at a batch of thousands.

    python benchmarks/bench_memory.py [--samples 4096] [--timed 4096] [--micro 256] [--rounds 3] [--only mlp vgg]

On Linux it is the resident memory, every way in a process of its own; on a GPU the allocator's peak. The gradients
themselves are allocated before, so that what is measured is what the batch costs. Times are medians, in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint_sequential
from works import DEVICE, MLP, VGG, Work, step

import linear_backprop as lb

WORKS = {"mlp": MLP, "vgg": VGG}
SEGMENTS = 4


def forward_in_parts(model: nn.Module, x: Tensor, target: Tensor, micro: int) -> None:
    """The forward pass alone, in micro-batches."""
    with torch.no_grad():
        for part, labels in zip(x.split(micro), target.split(micro), strict=True):
            F.cross_entropy(model(part), labels)


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, micro: int) -> None:
    """One step in micro-batches."""
    for part, labels in zip(x.split(micro), target.split(micro), strict=True):
        (F.cross_entropy(run(part), labels, reduction="sum") / len(x)).backward()


def collapsed_in_parts(fast: lb.Collapsed, x: Tensor, target: Tensor, micro: int) -> None:
    """One collapsed step in micro-batches."""
    with fast.accumulate():
        in_parts(fast, x, target, micro)


def checkpointed(model: nn.Module, x: Tensor) -> Tensor:
    """The model under activation checkpointing."""
    layers = nn.Sequential(*(m for m in model.modules() if not list(m.children())))
    return checkpoint_sequential(layers, SEGMENTS, x, use_reentrant=False)


def ways(work: Work, samples: int, micro: int) -> tuple[nn.Module, dict[str, Callable[[], None]]]:
    """The model, and every way of making a step."""
    model = work.model()
    x, target = work.batch(samples)
    fast = lb.collapse(model)
    step(fast, x[:64], target[:64])
    return model, {
        "forward, micro-batches": partial(forward_in_parts, model, x, target, micro),
        "Backprop": partial(step, model, x, target),
        f"Backprop, checkpointing in {SEGMENTS}": partial(step, partial(checkpointed, model), x, target),
        "Backprop, micro-batches": partial(in_parts, model, x, target, micro),
        "collapsed": partial(step, fast, x, target),
        "collapsed, micro-batches": partial(collapsed_in_parts, fast, x, target, micro),
    }


def print_peak(name: str, way: str, samples: int, micro: int) -> None:
    """Print the megabytes by which one step raises the peak."""
    _, candidates = ways(WORKS[name], samples, micro)
    print(megabytes_of(candidates[way]))


def megabytes_of(run: Callable[[], object]) -> float:
    """The megabytes by which a call raises the peak."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _peak_resident()
    run()
    return _peak_resident() - before


def _peak_resident() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def peak(name: str, way: str, samples: int, micro: int) -> float:
    """The megabytes, from a fresh process."""
    command = [sys.executable, __file__, "--peak", name, way, "--samples", str(samples), "--micro", str(micro)]
    return float(subprocess.check_output(command, text=True).split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--micro", type=int, default=256)
    parser.add_argument("--timed", type=int, help="time batches of so many samples; as many as --samples if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--peak", nargs=2, metavar=("WORK", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak, arguments.samples, arguments.micro)
        return
    print(f"Measured on {where_and_when()}. {arguments.rounds} rounds. float32, eager.")
    for name in arguments.only:
        timed = arguments.timed or arguments.samples
        model, candidates = ways(WORKS[name], timed, arguments.micro)

        def clocked(way: Callable[[], None], model: nn.Module = model) -> float:
            model.zero_grad()
            return seconds(way)

        times = medians({way: partial(clocked, run) for way, run in candidates.items()}, arguments.rounds)
        forward = times.pop("forward, micro-batches")
        peaks = {way: peak(name, way, arguments.samples, arguments.micro) for way in times}
        print(
            f"\n{WORKS[name].name}, N = {arguments.samples}, micro-batches of {arguments.micro}; times at N = {timed}\n"
        )
        rows = [
            [way, f"{peaks[way]:.0f} MB", f"{peaks[way] / peaks['Backprop']:.3f}", f"{times[way] / forward:.2f}"]
            for way in times
        ]
        print(markdown(["step", "peak memory", "of Backprop's", "time, of forward's"], rows), flush=True)


if __name__ == "__main__":
    main()
