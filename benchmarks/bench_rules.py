"""What a rule costs: forward + backward of each activation alone, against native autograd.

    python benchmarks/bench_rules.py [--compiled] [--only relu gelu] [--rounds 5]

Times are ratios to native autograd of the same form, measured in turns in one run; the median of the rounds.
`idiom` is the usual straight-through `x + (f(x) - x).detach()`, whose values are not bit-identical. `limit` runs
f and no node at all. Saved bytes are what autograd keeps, per element.

In place, the pre-activation is the output of a layer, made before the clock starts. The claims at the end are checked
against the targets and say so where one is missed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import Tensor
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop.diagnostics import saved_bytes

RULES = (
    lb.Linear(),
    lb.Clipped(),
    lb.PreActivation(),
    lb.Surrogate("silu"),
    lb.Blend(lb.Linear(), lb.Exact(), 0.5),
)
LARGE, SMALL = (128, 64, 32, 32), (64, 50)
REPEATS = {LARGE: 1, SMALL: 300}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functools.partial(F.relu, inplace=True),
    "silu": functools.partial(F.silu, inplace=True),
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
    "hardtanh": functools.partial(F.hardtanh, inplace=True),
    "elu": functools.partial(F.elu, inplace=True),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def plain(name: str) -> Callable[[Tensor], Tensor]:
    """The activation as a function of one tensor, with example arguments where it has no defaults."""
    function: Callable[..., Tensor] = lb.activation_named(name).function
    arguments: dict[str, Any] = {
        "prelu": {"weight": torch.tensor([0.25], device=DEVICE)},
        "threshold": {"threshold": 0.1, "value": 0.0},
        "clamp": {"min": -1.0, "max": 1.0},
        "rrelu": {"training": True},
    }.get(name, {})
    return functools.partial(function, **arguments) if arguments else function


def idiom(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Straight-through as it is usually written."""
    return lambda x: x + (f(x) - x).detach()


def ruled(f: Callable[[Tensor], Tensor], rule: lb.BackwardRule) -> Callable[[Tensor], Tensor]:
    """The same function inside the rule: `with_rule` needs to see PyTorch's own function, not a partial of it."""
    if isinstance(f, functools.partial):
        return functools.partial(lb.with_rule(f.func, rule), *f.args, **f.keywords)
    return lb.with_rule(f, rule)


def variants(name: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is compared: native autograd, the idiom, every rule."""
    f = plain(name)
    return {"native": f, "idiom": idiom(f)} | {type(rule).__name__: ruled(f, rule) for rule in RULES}


class Layer(torch.autograd.Function):
    """The layer below an in-place activation; its own cost is a copy forward and nothing backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def out_of_place(f: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Callable[[], float]:
    """Seconds of forward + backward."""
    return lambda: seconds(lambda: torch.autograd.grad(f(x), x, g), REPEATS[tuple(x.shape)])


def in_place(f: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Callable[[], float]:
    """Seconds of forward + backward of an in-place activation, of the layer below only the backward pass."""

    def measure() -> float:
        outputs = [Layer.apply(x) for _ in range(REPEATS[tuple(x.shape)])]
        return seconds(lambda: torch.autograd.grad(f(outputs.pop()), x, g), len(outputs))

    return measure


def eager_row(name: str, shape: tuple[int, ...], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to native autograd, and saved bytes an element, for one activation out of place."""
    x, g = torch.randn(shape, device=DEVICE, requires_grad=True), torch.randn(shape, device=DEVICE)
    f, functions = plain(name), variants(name)
    timed = {label: out_of_place(function, x, g) for label, function in functions.items()}
    timed["limit"] = lambda: seconds(lambda: f(x.detach()), REPEATS[shape])
    times = medians(timed, rounds)
    saved = {label: saved_bytes(function, x) / x.numel() for label, function in functions.items()}
    return {label: taken / times["native"] for label, taken in times.items()}, saved


def in_place_row(name: str, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Ratios to native autograd of the same in-place form."""
    x, g = torch.randn(shape, device=DEVICE, requires_grad=True), torch.randn(shape, device=DEVICE)
    f = IN_PLACE[name]
    times = medians(
        {
            "native": in_place(f, x, g),
            "Linear": in_place(ruled(f, lb.Linear()), x, g),
            "Clipped": in_place(ruled(f, lb.Clipped()), x, g),
        },
        rounds,
    )
    return {label: taken / times["native"] for label, taken in times.items()}


def compiled_row(name: str, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Ratios to compiled native autograd."""
    x, g = torch.randn(shape, device=DEVICE, requires_grad=True), torch.randn(shape, device=DEVICE)
    functions = variants(name)
    torch.compiler.reset()
    timed = {
        label: out_of_place(torch.compile(lambda x, run=function: run(x), fullgraph=True), x, g)
        for label, function in functions.items()
    }
    times = medians(timed, rounds)
    return {label: taken / times["native"] for label, taken in times.items()}


def print_table(title: str, rows: dict[str, dict[str, float]], digits: int = 2) -> None:
    """One table, a row an activation."""
    columns = list(next(iter(rows.values())))
    cells = [[name, *(f"{row[column]:.{digits}f}" for column in columns)] for name, row in rows.items()]
    print(f"\n{title}\n\n{markdown(['activation', *columns], cells)}", flush=True)


def print_claim(what: str, measured: dict[str, float], target: float) -> None:
    """One target, and whether it is met."""
    worst = max(measured, key=lambda name: measured[name])
    verdict = "met" if measured[worst] <= target else "MISSED"
    print(f"- {what}: at most {target}; worst {measured[worst]:.2f} ({worst}): {verdict}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true", help="also under torch.compile (minutes)")
    parser.add_argument("--only", nargs="+", default=[activation.name for activation in lb.CATALOGUE])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    names, rounds = arguments.only, arguments.rounds

    print(f"Measured on {where_and_when()}. {rounds} rounds.")
    large = {name: eager_row(name, LARGE, rounds) for name in names}
    print_table(
        "Eager, 128x64x32x32 float32 (8.4 M elements): time against native", {n: r for n, (r, _) in large.items()}
    )
    saved = {name: bytes_kept for name, (_, bytes_kept) in large.items()}
    print_table("Bytes that autograd keeps, an element", saved, digits=0)
    small = {name: eager_row(name, SMALL, 3 * rounds)[0] for name in names}
    print_table("Eager, 64x50 float32: time against native", small)
    placed = {
        shape: {n: in_place_row(n, shape, 3 * rounds) for n in IN_PLACE if n in names} for shape in (LARGE, SMALL)
    }
    if placed[LARGE]:
        print_table("In place, 128x64x32x32: time against native in place", placed[LARGE])
        print_table("In place, 64x50: time against native in place", placed[SMALL])
    if arguments.compiled:
        rows = {name: compiled_row(name, LARGE, rounds) for name in names}
        print_table("Compiled, 128x64x32x32: time against compiled native", rows)

    print("\nTargets, `Linear`:\n")
    main_four = [name for name in ("relu", "gelu", "silu", "sigmoid") if name in names]
    if main_four:
        print_claim("8 M elements", {n: large[n][0]["Linear"] for n in main_four}, 0.55)
    placed_four = [name for name in main_four if name in IN_PLACE]
    if placed_four:
        print_claim("8 M elements, in place", {n: placed[LARGE][n]["Linear"] for n in placed_four}, 0.35)
        print_claim("64x50, in place", {n: placed[SMALL][n]["Linear"] for n in placed[SMALL]}, 1.05)
    print_claim("saved bytes an element", {n: saved[n]["Linear"] for n in names}, 0.0)


if __name__ == "__main__":
    main()
