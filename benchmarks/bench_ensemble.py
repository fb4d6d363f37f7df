"""What training all initialisations of figure 1 at once saves, against a loop over single networks.

    python benchmarks/bench_ensemble.py [--networks 50] [--steps 50] [--rounds 5]

Both sides train the same networks on the same five points for the same number of steps of Adam, full batch, and build
them before the clock starts. A single network is what a user would write: `nn.Sequential`, `lb.convert`, the plain
loop, the fused Adam. Both run on one thread, which suits products this small. The ratio is of the medians of the
rounds, in which the two sides take turns.
"""

from __future__ import annotations

import argparse
import functools

import torch
from harness import markdown, medians, seconds, where_and_when
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.data import Polynomial
from linear_backprop_lab.models import MLPEnsemble, mlp
from linear_backprop_lab.training import train_ensemble

WIDTHS = (1, 50, 50, 50, 50, 1)
RULES = (lb.Exact(), lb.Linear(), lb.PreActivation())
TARGET = 8.0


def at_once(networks: int, steps: int, rule: lb.BackwardRule) -> float:
    """Seconds that the batched model takes; with no tolerance every network takes every step."""
    data = Polynomial.sample()
    model = MLPEnsemble.from_seeds(WIDTHS, lb.with_rule(torch.tanh, rule), range(networks))
    return seconds(
        lambda: train_ensemble(model, data.train_inputs, data.train_targets, tolerance=-1.0, max_steps=steps)
    )


def one_by_one(networks: int, steps: int, rule: lb.BackwardRule) -> float:
    """Seconds that the loop over single networks takes."""
    models = [single(seed, rule) for seed in range(networks)]
    return seconds(lambda: [train_single(model, steps) for model in models])


def single(seed: int, rule: lb.BackwardRule) -> nn.Sequential:
    """One network, with the rule in its modules."""
    torch.manual_seed(seed)
    model = mlp(WIDTHS, nn.Tanh)
    if rule != lb.Exact():
        lb.convert(model, rule)
    return model


def train_single(model: nn.Sequential, steps: int) -> None:
    """The loop a user would write."""
    data = Polynomial.sample()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(data.train_inputs), data.train_targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def row(networks: int, steps: int, rounds: int, rule: lb.BackwardRule) -> tuple[str, float, float]:
    """The rule, and microseconds a step of all networks: at once, and one by one."""
    sides = {name: functools.partial(side, networks, steps, rule) for name, side in SIDES.items()}
    taken = medians(sides, rounds)
    return repr(rule), 1e6 * taken["at once"] / steps, 1e6 * taken["one by one"] / steps


SIDES = {"at once": at_once, "one by one": one_by_one}


def main() -> None:
    """Print one row a rule, and whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = [row(arguments.networks, arguments.steps, arguments.rounds, rule) for rule in RULES]
    print(f"{where_and_when()}\n")
    print(f"{arguments.networks} MLPs {WIDTHS}, tanh, {arguments.steps} steps, median of {arguments.rounds} rounds\n")
    columns = ("rule", "at once, us a step", "one by one, us a step", "times faster")
    print(markdown(columns, [(name, f"{a:.0f}", f"{b:.0f}", f"{b / a:.1f}") for name, a, b in rows]))
    slowest = min(b / a for _, a, b in rows)
    state = "met" if slowest >= TARGET else "MISSED"
    print(f"\nTarget: at least {TARGET:g} times faster under every rule; least {slowest:.1f}: {state}")


if __name__ == "__main__":
    main()
