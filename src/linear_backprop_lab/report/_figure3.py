"""The sections on figure 3: ReLU with Backprop against tanh, and against ReLU, with Linear Backprop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

import numpy as np

from linear_backprop_lab.experiments import choose
from linear_backprop_lab.records import Run

from ._claims import Claim, all_or_some
from ._drawing import RULE_COLORS, RULE_MARKERS, axes, rule_name, to_svg
from ._figure2 import as_accuracy
from ._image_runs import (
    BACKPROP,
    LINEAR,
    SIGNIFICANT,
    activation_name,
    chance,
    curve,
    epochs,
    fullest,
    scale,
    seed,
    setting,
    standard_error,
    swept,
    under,
    variants,
)
from ._section import Figure, Section, Table

_MUCH = 2.0


@dataclass(frozen=True)
class Seeds:
    """The runs of one network and rule that differ in the seed alone."""

    name: str
    activation: str
    rule: str
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The activation and the rule."""
        return f"{activation_name(self.activation)}, {rule_name(self.rule)}"

    @property
    def best(self) -> list[float]:
        """The best test accuracy of each seed's run."""
        return [choose([run], "test").value for run in self.runs]

    @property
    def learns(self) -> bool:
        """Whether the mean of `best` is above chance by more than 1.96 standard errors of the test set."""
        guess = chance(self.runs[0])
        return fmean(self.best) - guess > SIGNIFICANT * standard_error(self.runs[0], guess)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds of the last epoch's test accuracy; None for one seed."""
        last = [run.metrics[-1]["test_accuracy"] for run in self.runs]
        return stdev(last) if len(last) > 1 else None

    @property
    def roughness(self) -> float | None:
        """The standard deviation of the change of test accuracy from epoch to epoch, in the second half of training.

        The mean over seeds; None where a run has fewer than two such changes.
        """
        halves = [np.diff(curve(run, "test_accuracy")[1][epochs(run) // 2 :]) for run in self.runs]
        if any(len(half) < 2 for half in halves):
            return None
        return float(np.mean([np.std(half, ddof=1) for half in halves]))


Pair = tuple[Seeds, Seeds]


def figure3(runs: Sequence[Run], *, part: str, activation: str, paper: str) -> Section:
    """The section, from complete runs of VGG19, at least one.

    Args:
        runs: ReLU under Backprop, and `activation` under Linear Backprop; others are passed over.
        part: "left" or "right".
        activation: Of the network that trains with Linear Backprop: "Tanh" or "ReLU".
        paper: The paper's words on what this part shows.
    """
    members = fullest(runs)
    pairs = [pair for name, each in variants(members).items() for pair in _pairs(name, each, activation, part)]
    sides = f"ReLU with Backprop and {activation_name(activation)} with Linear Backprop"
    return Section(
        id=f"fig3-{part}",
        title=f"Figure 3, {part}: {sides}",
        asked=f"Do {sides} learn alike, and is Backprop's variance the higher? Each is shown at the best setting of "
        "its sweep, with several seeds of weights and order. " + scale(members),
        figures=tuple(_figure(pair, part) for pair in pairs),
        claims=(_alike(part, pairs, paper), _varies(part, pairs)),
        table=_table(pairs),
        rerun=f"linear-backprop reproduce fig3-{part} --scale cpu",
    )


figure3_left = partial(
    figure3,
    part="left",
    activation="Tanh",
    paper="“Learning ReLU with Backprop can yield similar results to tanh with Linear Backprop” (caption of figure 3)",
)
figure3_right = partial(
    figure3,
    part="right",
    activation="ReLU",
    paper="“We see similar results when we compare Linear Backprop learning with ReLU and Backprop learning with ReLU” "
    "(appendix A)",
)


def _pairs(name: str, runs: Sequence[Run], activation: str, part: str) -> list[Pair]:
    """Both sides of a network; none where a side is missing."""
    backprop, linear = under(runs, BACKPROP, "ReLU"), under(runs, LINEAR, activation)
    if not backprop or not linear:
        return []
    first, second = (_seeds(name, side, long=part == "left") for side in (backprop, linear))
    return [(first, second)] if first and second else []


def _seeds(name: str, runs: Sequence[Run], long: bool) -> Seeds | None:
    """The seeds at the best setting of the sweep; of the longer runs, where `long`."""
    sweep = swept(runs)
    best = choose(sweep, "test").run
    length = max(map(epochs, runs)) if long else epochs(best)
    if long and length == epochs(best):
        return None
    chosen = [run for run in runs if setting_of(run) == setting_of(best) and epochs(run) == length]
    if not chosen:
        return None
    return Seeds(name, best.config["model"]["activation"], best.config["rule"], tuple(sorted(chosen, key=seed)))


def setting_of(run: Run) -> tuple[float, float]:
    """The learning rate and the penalty."""
    return run.config["recipe"]["learning_rate"], run.config["recipe"]["weight_decay"]


def _figure(pair: Pair, part: str) -> Figure:
    with axes() as drawn:
        for seeds in pair:
            for number, run in enumerate(seeds.runs):
                # A marker an epoch would hide a curve of a thousand.
                drawn.plot(
                    *curve(run, "test_accuracy"),
                    color=RULE_COLORS[seeds.rule],
                    marker=RULE_MARKERS[seeds.rule] if epochs(run) <= 20 else "",
                    alpha=0.8,
                    linewidth=1.2,
                    label=f"{seeds.label}, {setting(run)}" if number == 0 else None,
                )
        as_accuracy(drawn)
        drawn.legend(fontsize="small")
        svg = to_svg(drawn, salt=f"fig3-{part}-{pair[0].name}")
    counts = " and ".join(str(len(seeds.runs)) for seeds in pair)
    return Figure(
        f"Test accuracy: {pair[0].name}",
        f"A curve a seed, {counts} seeds, at the setting with the best test accuracy in the sweep, the paper's choice.",
        svg,
    )


def _alike(part: str, pairs: Sequence[Pair], paper: str) -> Claim:
    other = "tanh" if part == "left" else "ReLU"
    return Claim(
        experiment=f"fig3-{part}",
        claim=f"ReLU with Backprop learns as {other} with Linear Backprop does.",
        paper=paper,
        measured="; ".join(
            f"{backprop.name}: mean of the best test accuracies {fmean(backprop.best):.1%} ({backprop.label}) and "
            f"{fmean(linear.best):.1%} ({linear.label})"
            for backprop, linear in pairs
        )
        or "no record",
        verdict=all_or_some([_is_alike(*pair) for pair in pairs if _learns(pair)]),
        how="holds where the means over seeds of the best test accuracy differ by at most 1.96 standard errors of the "
        "difference, from the test set and from the seeds, in every network that is above chance on either side; "
        "partly where in some",
    )


def _learns(pair: Pair) -> bool:
    """Whether either side does: two networks at chance are alike, and do not vary, for want of learning."""
    return any(seeds.learns for seeds in pair)


def _is_alike(first: Seeds, second: Seeds) -> bool:
    squares = sum(_squared_error(seeds) for seeds in (first, second))
    return abs(fmean(first.best) - fmean(second.best)) <= SIGNIFICANT * squares**0.5


def _squared_error(seeds: Seeds) -> float:
    """Of the mean over seeds: the test set's, which all seeds share, and the seeds' own."""
    of_seeds = stdev(seeds.best) ** 2 / len(seeds.best) if len(seeds.best) > 1 else 0.0
    return standard_error(seeds.runs[0], fmean(seeds.best)) ** 2 + of_seeds


def _varies(part: str, pairs: Sequence[Pair]) -> Claim:
    spreads = [
        (first, second, what, one, other)
        for first, second in pairs
        if _learns((first, second))
        for what, one, other in (
            ("over seeds", first.spread, second.spread),
            ("epoch to epoch", first.roughness, second.roughness),
        )
        if one is not None and other is not None
    ]
    return Claim(
        experiment=f"fig3-{part}",
        claim="The variance of ReLU with Backprop is significantly higher.",
        paper="“However, the variance of Backprop learning with ReLU is significantly higher.” (appendix A)",
        measured="; ".join(
            f"{first.name}, {what}: standard deviation {one:.2%} ({first.label}) against {other:.2%} ({second.label})"
            for first, second, what, one, other in spreads
        )
        or "too few seeds or epochs",
        verdict=all_or_some([one > _MUCH * other for *_, one, other in spreads]),
        how="the paper does not say of what; so both of the last test accuracy over seeds and of its change from "
        "epoch to epoch in the second half of training. Holds where Backprop's standard deviation is more than twice "
        "Linear Backprop's by both, in every network that is above chance on either side; partly where in some. Three "
        "seeds cannot tell a ratio below 4.4 from chance (one-sided F test, p = 0.05)",
    )


def _table(pairs: Sequence[Pair]) -> Table:
    columns = (
        "network",
        "units, rule",
        "setting",
        "seeds",
        "epochs",
        "mean best",
        "SD over seeds",
        "SD epoch to epoch",
    )
    return Table(columns, tuple(_row(seeds) for pair in pairs for seeds in pair))


def _row(seeds: Seeds) -> tuple[str, ...]:
    run = seeds.runs[0]
    spreads = ("" if value is None else f"{value:.2%}" for value in (seeds.spread, seeds.roughness))
    return (
        seeds.name,
        seeds.label,
        setting(run),
        str(len(seeds.runs)),
        str(epochs(run)),
        f"{fmean(seeds.best):.1%}",
        *spreads,
    )
