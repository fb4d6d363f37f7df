"""What a network learns in little memory: test accuracy against peak memory, bytes sent and time, trained to the end.

    python benchmarks/bench_little_memory.py train --data FOLDER    half an hour of one core; goes on if stopped
    python benchmarks/bench_little_memory.py memory                 peaks, and the bytes that two workers send
    python benchmarks/bench_little_memory.py time                   on a machine that does nothing else
    python benchmarks/bench_little_memory.py draw                   the tables and the figure, from the records

Each part takes `--smoke` for tiny networks, and `--records` for another folder than `benchmarks/records`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import markdown
from little_memory import NAME, NETWORKS, SMOKE, Setting, chosen_runs, train_all
from little_memory_costs import LARGE, Costs, Way, measure, ways_of
from matplotlib.figure import Figure

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # by the number of seeds, for 95% on both sides
COLORS = {"Linear": "#d9601a", "LocallyExact": "#2a7f62"}
USUAL = "#404040"


@dataclass(frozen=True)
class Accuracy:
    """Of one method: test accuracy by seed, and its learning rate."""

    by_seed: tuple[float, ...]
    rate: float

    def text(self) -> str:
        """Mean and interval in percent."""
        return interval(self.by_seed)

    def behind(self, other: Accuracy) -> str:
        """The mean difference to another method of the same seeds, and its interval."""
        return interval([a - b for a, b in zip(self.by_seed, other.by_seed, strict=True)], sign="+")


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of a mean, by Student's t."""
    return STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean and half width, in percent."""
    return f"{100 * statistics.mean(values):{sign}.1f} ± {100 * half_width(values):.1f}"


def accuracies(root: Path, setting: Setting, data: str) -> dict[tuple[str, str], Accuracy]:
    """Those of every network and method that is trained in full."""
    found = {}
    for network, each in NETWORKS.items():
        for method in each.methods:
            runs = chosen_runs(root, setting, data, network, method)
            if runs and all(run.is_complete for run in runs):
                by_seed = tuple(run.metrics[-1]["test_accuracy"] for run in runs)
                found[network, method] = Accuracy(by_seed, runs[0].config["recipe"]["learning_rate"])
    return found


def learning_table(found: dict[tuple[str, str], Accuracy]) -> str:
    """A row per network and method."""
    rows = []
    for (network, method), each in found.items():
        usual = found.get((network, next(iter(NETWORKS[network].methods))))
        difference = "" if usual is None or usual is each else each.behind(usual)
        rows.append([network, method, f"{each.rate:g}", each.text(), difference])
    return markdown(["network", "method", "learning rate", "test accuracy, %", "against the first, points"], rows)


def cost_table(network: str, setting: Setting, costs: Costs) -> str:
    """A row per way."""
    memory, times = costs[network]["memory"], costs[network]["time"]["seconds"]
    rows = []
    for way in ways_of(network, setting):
        peak = memory["peaks"][way.name]
        cells = [f"{peak[key]:.0f} MB" for key in ("step", "large", "large_gradients")]
        sent = f"{memory['bytes'][way.method]:,}"
        rows.append([way.name, *cells, sent, f"{1e3 * times[way.name]:.0f} ms"])
    batches = (f"peak, N = {setting.batch_size:,}", f"peak, N = {LARGE * setting.batch_size:,}")
    return markdown([network, *batches, "without Adam's step", "bytes a step", "time of a step"], rows)


def figure(setting: Setting, found: dict[tuple[str, str], Accuracy], costs: Costs) -> Figure:
    """A row per network: test accuracy against the peak at the large batch, the bytes sent and the time."""
    drawn = Figure(figsize=(10, 2.6 * len(costs)), layout="constrained")
    rows = drawn.subplots(len(costs), 3, squeeze=False, sharey="row")
    labels = (f"peak of a step of {LARGE * setting.batch_size:,}, MB", "bytes sent a step", "time of a step, ms")
    for axes, (network, measured) in zip(rows, costs.items(), strict=True):
        for way in ways_of(network, setting):
            accuracy = found[network, way.method]
            for axis, cost in zip(axes, _costs_of(way, measured), strict=True):
                axis.errorbar(
                    cost,
                    100 * statistics.mean(accuracy.by_seed),
                    yerr=100 * half_width(accuracy.by_seed),
                    marker=_marker(way),
                    color=COLORS.get(way.method, USUAL),
                    fillstyle="none" if "micro" in way.name or "accumulate" in way.name else "full",
                    linestyle="",
                    capsize=3,
                    label=way.name,
                )
        axes[1].set_xscale("log")
        axes[0].set_ylabel(f"{network}: accuracy, %")
        axes[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for axis, label in zip(rows[-1], labels, strict=True):
        axis.set_xlabel(label)
    return drawn


def _costs_of(way: Way, costs: dict[str, Any]) -> tuple[float, float, float]:
    memory = costs["memory"]
    return memory["peaks"][way.name]["large"], memory["bytes"][way.method], 1e3 * costs["time"]["seconds"][way.name]


def _marker(way: Way) -> str:
    if "checkpointing" in way.name:
        return "^"
    return "s" if "micro" in way.name or "accumulate" in way.name else "o"


def draw(root: Path, setting: Setting, plot: Path | None, data: str) -> None:
    """Print the tables and draw the figure, of the networks that are trained and measured."""
    found = accuracies(root, setting, data)
    print(learning_table(found))
    costs: Costs = {
        network: kinds
        for network, kinds in json.loads((root / NAME / "costs.json").read_text()).items()
        if {"memory", "time"} <= set(kinds) and all((network, method) in found for method in NETWORKS[network].methods)
    }
    for network, kinds in costs.items():
        for kind in ("memory", "time"):
            print(f"\n{network}, {kind}: {kinds[kind]['where']}")
        print(f"\n{cost_table(network, setting, costs)}")
    if plot is not None:
        figure(setting, found, costs).savefig(plot, metadata={"Date": None})


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "memory", "time", "draw"))
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--data", type=Path, help="the folder of CIFAR-10; digits if not given")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, to see that it runs")
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS), help="to measure")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    setting = SMOKE if arguments.smoke else Setting()
    if arguments.part == "train":
        train_all(arguments.records, setting, arguments.data)
    elif arguments.part == "draw":
        draw(arguments.records, setting, arguments.plot, "digits" if arguments.smoke else "cifar10")
    else:
        for network in arguments.network:
            path = arguments.records / NAME / "costs.json"
            measure(path, setting, network, arguments.part, arguments.rounds)


if __name__ == "__main__":
    main()
