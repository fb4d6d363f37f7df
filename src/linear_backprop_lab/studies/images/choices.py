"""What a sweep's best settings are, by either protocol: in words, in a table, and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, by_direction
from linear_backprop_lab.report.drawing import rule_name
from linear_backprop_lab.studies.images.selection import Choice, Metric, Protocol, choose

from .seeds import Seeds, both_seeds, difference
from .settings import BACKPROP, LINEAR, SIGNIFICANT, Networks, is_above_chance, setting, standard_error, swept, under

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


def learned(networks: Networks, protocol: Protocol) -> dict[str, Choice | None]:
    """Linear Backprop's best run of every network that did not diverge; None where all did."""
    found = {name: finished(under(runs, LINEAR)) for name, runs in networks.items()}
    return {name: choose(runs, protocol) if runs else None for name, runs in found.items()}


def is_learned(choice: Choice | None) -> bool:
    """Whether there is such a run, and it is above chance by more than 1.96 standard errors of the test set."""
    return choice is not None and is_above_chance(choice.run, choice.value)


def described(choice: Choice, digits: int = 1) -> str:
    """The value on the test set as a percentage, the setting and the epoch."""
    return f"{choice.value:.{digits}%} ({setting(choice.run)}, epoch {choice.epoch})"


def exceeds(first: Choice, second: Choice) -> bool:
    """Whether a share is above another by more than 1.96 standard errors of their difference on the test set."""
    error = math.hypot(standard_error(first.run, first.value), standard_error(second.run, second.value))
    return first.value - second.value > SIGNIFICANT * error


def choice_rows(name: str, runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A row a rule and protocol, under the heads of `CHOICE_COLUMNS`."""
    return [
        (name, rule_name(rule), words, setting(choice.run), str(choice.epoch), *_numbers(choice))
        for rule in (BACKPROP, LINEAR)
        if under(runs, rule)
        for protocol, words in CHOSEN.items()
        for choice in (choose(under(runs, rule), protocol),)
    ]


CHOICE_COLUMNS = ("network", "rule", "chosen", "setting", "epoch", "test accuracy", "Precision@5 error")


def _numbers(choice: Choice) -> tuple[str, str]:
    line = choice.run.metrics[choice.epoch - 1]
    return f"{line['test_accuracy']:.1%}", f"{line['test_top5_error']:.2%}"


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
        """1 where Linear Backprop is ahead by more than 1.96 standard errors, -1 where Backprop is, else 0.

        Of the sweep's seed, then of the mean over seeds.
        """
        backprop, linear = self.chosen
        found = [
            exceeds(linear, backprop) - exceeds(backprop, linear),
            _sign(difference(self.seeds[1], self.seeds[0])),
        ]
        return found if self.metric == "accuracy" else [-outcome for outcome in found]

    @property
    def measured(self) -> str:
        """The numbers behind `outcomes`, Linear Backprop's against Backprop's."""
        backprop, linear = (described(choice, 1 if self.metric == "accuracy" else 2) for choice in self.chosen)
        backprop_seeds, linear_seeds = (seeds.described() for seeds in self.seeds)
        return (
            f"chosen {CHOSEN[self.protocol]}: {linear} against {backprop} under Backprop, "
            f"over seeds {linear_seeds} against {backprop_seeds}"
        )


def _sign(errors: float) -> int:
    """Of a difference in standard errors: 0 within 1.96."""
    return (errors > SIGNIFICANT) - (errors < -SIGNIFICANT)


def comparisons(runs: Sequence[Run], metric: Metric = "accuracy") -> list[Comparison]:
    """One a protocol, from the runs of a sweep under both rules and those with further seeds."""
    return [
        Comparison(both_chosen(swept(runs), protocol, metric), both_seeds(runs, protocol, metric), protocol, metric)
        for protocol in CHOSEN
    ]


def linear_is_ahead(networks: Networks, *, experiment: str, claim: str, paper: str) -> Claim:
    """Whether Linear Backprop is ahead, each rule at its best setting.

    Args:
        networks: The runs of a sweep, and those with further seeds.
        experiment: As in `Claim`, like what follows.
        claim: In one sentence.
        paper: The paper's words.
    """
    compared = [(name, each) for name, runs in networks.items() for each in comparisons(runs)]
    return Claim(
        experiment=experiment,
        claim=claim,
        paper=paper,
        measured="; ".join(f"{name}, {each.measured}" for name, each in compared),
        verdict=by_direction([outcome for _, each in compared for outcome in each.outcomes]),
        key=key_numbers(compared),
        how="holds where Linear Backprop's test accuracy is above Backprop's by more than 1.96 standard errors of the "
        "difference, with and without batch normalization, by both ways of choosing, for the sweep's seed and in the "
        "mean over seeds; partly where in some; no difference seen where neither is ahead anywhere",
    )


def key_numbers(compared: Sequence[tuple[str, Comparison]]) -> str:
    """The means over seeds, Linear Backprop's against Backprop's, chosen on held-out images."""
    return "; ".join(
        f"{each.seeds[1].mean} against {each.seeds[0].mean}{f', {name}' if name else ''}"
        for name, each in compared
        if each.protocol == "held_out"
    )
