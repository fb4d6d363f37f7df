"""Where the collapsed step wins: batch, width, depth and number of outputs, each grown alone.

    python benchmarks/bench_growth.py [--rounds 3] [--plot benchmarks/growth.svg]

MLPs with ReLU, inputs as wide as the hidden layers. Beside the measured gain stands the one that operations alone
would give, 3 F N / (F N + 2 A (C + 1) N + 2 F (C + 1)), with F operations a sample forward and A values emitted.
The collapsed path is forced, also where `collapse` would choose the ordinary one; the last column says what it chooses.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness import markdown, medians, seconds, where_and_when
from matplotlib.figure import Figure
from torch import nn
from works import Work, forward_only, step

import linear_backprop as lb
from linear_backprop_lab.models import mlp


@dataclass(frozen=True)
class Point:
    """One MLP and batch."""

    samples: int = 1024
    width: int = 1024
    depth: int = 4
    outputs: int = 10

    @property
    def work(self) -> Work:
        """The MLP."""
        widths = (self.width,) * (self.depth + 1)
        return Work("", lambda: mlp((*widths, self.outputs), nn.ReLU), (self.width,))

    @property
    def gain_by_operations(self) -> float:
        """Backprop's operations over the collapsed pass's."""
        forward = 2 * self.width * (self.depth * self.width + self.outputs)
        emitted = 2 * self.width * (self.depth + 1)
        rows = self.outputs + 1
        backprop = 3 * forward - 2 * self.width**2  # the input gets no gradient
        return backprop * self.samples / (forward * self.samples + emitted * rows * self.samples + 2 * forward * rows)


GROWN = {
    "samples": (64, 256, 1024, 4096, 16384),
    "width": (128, 256, 512, 1024, 2048, 4096),
    "depth": (2, 4, 8, 16, 32),
    "outputs": (1, 10, 30, 100, 300, 1000),
}
AT_LEAST = 2.0  # seconds that the rounds of Backprop take together: few steps of milliseconds say little
LABELS = {"samples": "N", "width": "d", "depth": "depth", "outputs": "C"}


def measured(point: Point, rounds: int) -> tuple[dict[str, float], bool]:
    """Median seconds of Backprop, forward and the collapsed step; whether `collapse` would collapse."""
    model = point.work.model()
    x, target = point.work.batch(point.samples, point.outputs)
    fast = lb.collapse(model, always=True)

    def clocked(way: Callable[[], None]) -> float:
        model.zero_grad()
        return seconds(way)

    ways = {
        "Backprop": partial(step, model, x, target),
        "forward": partial(forward_only, model, x, target),
        "collapsed": partial(step, fast, x, target),
    }
    clocks = {name: partial(clocked, way) for name, way in ways.items()}
    once = medians(clocks, 1)["Backprop"]
    times = medians(clocks, max(rounds, math.ceil(AT_LEAST / once)))
    chosen = lb.collapse(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the ordinary backward pass
        chosen(x)
    return times, chosen.collapses(point.samples)


def plot(gains: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Four panels: the measured gain, and the one by operations, against what is grown."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(gains), sharey=True), gains.items(), strict=True):
        sizes = [size for size, _, _ in points]
        axes.plot(sizes, [gain for _, gain, _ in points], marker="o", color="#d9601a", label="measured")
        axes.plot(sizes, [gain for _, _, gain in points], linestyle="--", color="#808080", label="by operations")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(sizes[::2], [str(size) for size in sizes[::2]])
        axes.set_xlabel(LABELS[name])
    figure.axes[0].set_ylabel("times faster than Backprop")
    figure.axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="at least; more where a step is short")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    print(f"Measured on {where_and_when()}. {arguments.rounds} rounds or more. float32, eager.\n")
    rows, gains = [], {}
    for name, sizes in GROWN.items():
        gains[name] = []
        for size in sizes:
            point = replace(Point(), **{name: size})
            times, chosen = measured(point, arguments.rounds)
            gain = times["Backprop"] / times["collapsed"]
            gains[name].append((size, gain, point.gain_by_operations))
            cells = [f"{times[way] * 1e3:.1f} ms" for way in ("Backprop", "forward", "collapsed")]
            choice = "collapsed" if chosen else "ordinary"
            rows.append(
                [f"{LABELS[name]} = {size}", *cells, f"{gain:.2f}x", f"{point.gain_by_operations:.2f}x", choice]
            )
    columns = ["N = 1024, d = 1024, depth 4, C = 10 but", "Backprop", "forward", "collapsed", "gain"]
    print(markdown([*columns, "by operations", "chosen"], rows), flush=True)
    if arguments.plot:
        plot(gains, arguments.plot)


if __name__ == "__main__":
    main()
