"""What a training step costs: Backprop, the collapsed passes, and the forward pass alone.

    python benchmarks/bench_collapse.py [--rounds 7] [--bf16] [--compiled] [--only mlp vgg residual] [--samples N ...]

A step is forward, cross-entropy and backward, without the optimizer, which is the same for all. All take turns in
one run; the median of the rounds. `forward` runs without a graph. Gains are against Backprop of the same mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from harness import markdown, medians, seconds, where_and_when
from works import MLP, RESIDUAL, VGG, Work, forward_only, step

import linear_backprop as lb

WORKS = {"mlp": (MLP, (1024, 4096)), "vgg": (VGG, (128, 512)), "residual": (RESIDUAL, (128, 512))}
RULES = {
    "Linear": lb.Linear(),
    "LocallyExact(Linear)": lb.LocallyExact(lb.Linear()),
    "LocallyExact(MeanLinear)": lb.LocallyExact(lb.MeanLinear()),
}


def time_row(work: Work, samples: int, rounds: int, bf16: bool, compiled: bool) -> dict[str, float]:
    """Median seconds of every way of making a step."""
    model = work.model()
    run = torch.compile(model) if compiled else model
    x, target = work.batch(samples)
    ways: dict[str, Callable[[], None]] = {
        "Backprop": partial(step, run, x, target, bf16),
        "forward": partial(forward_only, run, x, target, bf16),
    }
    for name, rule in RULES.items():
        ways[name] = partial(step, lb.collapse(run, rule, layers=work.layers), x, target, bf16)

    def clocked(way: Callable[[], None]) -> float:
        model.zero_grad()
        return seconds(way)

    return medians({name: partial(clocked, way) for name, way in ways.items()}, rounds)


def row(work: Work, samples: int, times: dict[str, float]) -> list[str]:
    """Milliseconds of Backprop and forward, gain and cost of the others."""
    cells = [f"{times[name] * 1e3:.3g} ms" for name in ("Backprop", "forward")]
    for rule in RULES:
        gain, over = times["Backprop"] / times[rule], times[rule] / times["forward"]
        cells.append(f"{gain:.2f}x, {over:.2f} of forward")
    return [work.name, str(samples), *cells]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="in autocast; slow on processors without bf16")
    parser.add_argument("--compiled", action="store_true", help="the model under torch.compile, in every row")
    parser.add_argument("--only", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--samples", nargs="*", type=int, help="batch sizes in place of each work's own")
    arguments = parser.parse_args()
    mode = f"{'bf16 autocast' if arguments.bf16 else 'float32'}, {'compiled' if arguments.compiled else 'eager'}"
    print(f"Measured on {where_and_when()}. {arguments.rounds} rounds. {mode}.\n")
    rows = []
    for name in arguments.only:
        work, sizes = WORKS[name]
        for samples in arguments.samples or sizes:
            times = time_row(work, samples, arguments.rounds, arguments.bf16, arguments.compiled)
            rows.append(row(work, samples, times))
    print(markdown(["work", "N", "Backprop", "forward", *RULES], rows), flush=True)


if __name__ == "__main__":
    main()
