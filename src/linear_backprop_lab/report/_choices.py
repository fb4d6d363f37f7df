"""What a sweep's best settings are, by either protocol: in words, in a table, and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linear_backprop_lab.experiments import Choice, Metric, Protocol, choose
from linear_backprop_lab.records import Run

from ._claims import Claim, all_or_some
from ._drawing import rule_name
from ._image_runs import BACKPROP, LINEAR, SIGNIFICANT, Networks, setting, standard_error, swept, under
from ._seeds import both_seeds, difference

CHOSEN: dict[Protocol, str] = {"test": "on the test set (the paper's)", "held_out": "on held-out images (sound)"}
"""By which images, in words."""


def both_chosen(runs: Sequence[Run], protocol: Protocol, metric: Metric = "accuracy") -> tuple[Choice, Choice]:
    """The best of a sweep under Backprop and under Linear Backprop, both of which are among the runs."""
    backprop, linear = (choose(under(runs, rule), protocol, metric) for rule in (BACKPROP, LINEAR))
    return backprop, linear


def under_both(networks: Networks) -> Networks:
    """Those with runs under both rules."""
    return {name: each for name, each in networks.items() if under(each, BACKPROP) and under(each, LINEAR)}


def described(choice: Choice) -> str:
    """The setting, the epoch, and the accuracy there as a percentage."""
    return f"{choice.value:.1%} ({setting(choice.run)}, epoch {choice.epoch})"


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


def linear_is_ahead(networks: Networks, *, experiment: str, claim: str, paper: str) -> Claim:
    """Whether Linear Backprop is ahead, each rule at its best setting.

    Args:
        networks: The runs of a sweep, and those with further seeds.
        experiment: As in `Claim`, like what follows.
        claim: In one sentence.
        paper: The paper's words.
    """
    chosen = {
        f"{name}, chosen {words}": (both_chosen(swept(runs), protocol), both_seeds(runs, protocol))
        for name, runs in networks.items()
        for protocol, words in CHOSEN.items()
    }
    outcomes = [exceeds(linear, backprop) for (backprop, linear), _ in chosen.values()]
    outcomes += [difference(linear, backprop) > SIGNIFICANT for _, (backprop, linear) in chosen.values()]
    return Claim(
        experiment=experiment,
        claim=claim,
        paper=paper,
        measured="; ".join(
            f"{name}: {described(linear)} against {described(backprop)} under Backprop, "
            f"over seeds {linear_seeds.described()} against {backprop_seeds.described()}"
            for name, ((backprop, linear), (backprop_seeds, linear_seeds)) in chosen.items()
        ),
        verdict=all_or_some(outcomes),
        how="holds where Linear Backprop's test accuracy is above Backprop's by more than 1.96 standard errors of the "
        "difference, with and without batch normalization, by both ways of choosing, for the sweep's seed and in the "
        "mean over seeds; partly where in some",
    )
