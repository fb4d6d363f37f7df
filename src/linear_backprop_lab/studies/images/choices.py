"""What a sweep's best settings are, by either protocol: in words, in a table, and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Table
from linear_backprop_lab.report.names import BACKPROP, LINEAR, rule_name

from .seeds import Seeds, ahead_of, both_seeds
from .selection import Choice, Metric, Protocol, choose, protocols
from .settings import Networks, direction, setting, standard_error, swept, under

CHOSEN: dict[Protocol, str] = {"test": "on the test set (the paper's)", "held_out": "on held-out images (sound)"}
"""By which images, in words."""


def both_chosen(runs: Sequence[Run], protocol: Protocol, metric: Metric = "accuracy") -> tuple[Choice, Choice]:
    """The best of a sweep under Backprop and under Linear Backprop, both of which are among the runs."""
    backprop, linear = (choose(under(runs, rule), protocol, metric) for rule in (BACKPROP, LINEAR))
    return backprop, linear


def under_both(networks: Networks) -> Networks:
    """Those with runs under both rules."""
    return {name: each for name, each in networks.items() if under(each, BACKPROP) and under(each, LINEAR)}


def finished(runs: Sequence[Run]) -> list[Run]:
    """Those that did not diverge: what diverged has not learned, however good it was before."""
    return [run for run in runs if run.record["status"] == "finished"]


def described(choice: Choice, digits: int = 1) -> str:
    """The value on the test set as a percentage, the setting and the epoch."""
    return f"{choice.value:.{digits}%} ({setting(choice.run)}, epoch {choice.epoch})"


def beats(first: Choice, second: Choice) -> int:
    """1 where the first's share is above the second's beyond error on the test set, -1 where below, else 0."""
    error = math.hypot(*(standard_error(each.run, each.value) for each in (first, second)))
    return direction(first.value - second.value, error)


def choice_table(networks: Networks) -> Table | None:
    """What was chosen from the sweep of each network: a row a rule and protocol."""
    return Table.of([row for name, runs in networks.items() for row in _rows(name, swept(runs))])


def _rows(name: str, runs: Sequence[Run]) -> list[dict[str, str]]:
    return [
        {
            "network": name,
            "rule": rule_name(rule),
            "chosen": CHOSEN[protocol],
            "setting": setting(choice.run),
            "epoch": str(choice.epoch),
            "test accuracy": f"{choice.value:.1%}",
            "Precision@5 error": f"{choice.run.metrics[choice.epoch - 1]['test_top5_error']:.2%}",
        }
        for rule in (BACKPROP, LINEAR)
        if (members := under(runs, rule))
        for protocol in protocols(members[0])
        for choice in (choose(members, protocol),)
    ]


@dataclass(frozen=True)
class Comparison:
    """Both rules at the settings that one protocol chooses: Backprop first, then Linear Backprop.

    Attributes:
        chosen: What was chosen from the sweep.
        seeds: The seeds at those settings.
        protocol: That chose.
        metric: That was chosen by.
    """

    chosen: tuple[Choice, Choice]
    seeds: tuple[Seeds, Seeds]
    protocol: Protocol
    metric: Metric

    @property
    def outcomes(self) -> list[int]:
        """1 where Linear Backprop is ahead beyond error, -1 where Backprop is, else 0: of seed 0, of the mean."""
        better = 1 if self.metric == "accuracy" else -1
        return [better * beats(*reversed(self.chosen)), better * ahead_of(*reversed(self.seeds))]

    @property
    def measured(self) -> str:
        """The numbers behind `outcomes`, Linear Backprop's against Backprop's."""
        backprop, linear = (described(choice, 1 if self.metric == "accuracy" else 2) for choice in self.chosen)
        backprop_seeds, linear_seeds = (seeds.described() for seeds in self.seeds)
        return (
            f"chosen {CHOSEN[self.protocol]}: {linear} against {backprop} under Backprop, "
            f"over seeds {linear_seeds} against {backprop_seeds}"
        )


def comparisons(runs: Sequence[Run], metric: Metric = "accuracy") -> list[Comparison]:
    """One a protocol, from the runs of a sweep under both rules and those with further seeds."""
    return [
        Comparison(both_chosen(swept(runs), protocol, metric), both_seeds(runs, protocol, metric), protocol, metric)
        for protocol in CHOSEN
    ]


def leader(compared: Sequence[Comparison]) -> int:
    """1 where Linear Backprop is ahead in every outcome, -1 where Backprop is, 0 where neither is."""
    directions = {outcome for each in compared for outcome in each.outcomes}
    return directions.pop() if len(directions) == 1 else 0


def key_numbers(compared: Sequence[tuple[str, Comparison]]) -> str:
    """The means over seeds, Linear Backprop's against Backprop's, chosen on held-out images."""
    return "; ".join(
        f"{each.seeds[1].mean} against {each.seeds[0].mean}{f', {name}' if name else ''}"
        for name, each in compared
        if each.protocol == "held_out"
    )
