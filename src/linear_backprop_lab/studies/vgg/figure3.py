"""The sections on figure 3: ReLU with Backprop against tanh, and against ReLU, with Linear Backprop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

import numpy as np

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.names import BACKPROP, LINEAR, activation_name
from linear_backprop_lab.studies.images.choices import CHOSEN
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.seeds import (
    Seeds,
    ahead_of,
    draw_seeds,
    longer_at_the_best,
    seeds_at_the_best,
)
from linear_backprop_lab.studies.images.selection import Protocol
from linear_backprop_lab.studies.images.settings import SIGNIFICANT, curve, epochs, fullest, setting, under, variants

_MUCH = 2.0

Pair = tuple[str, Seeds, Seeds]
"""The network's name, ReLU under Backprop, and what it is compared with."""


@dataclass(frozen=True)
class Part:
    """One part of the figure.

    Attributes:
        side: Of the figure.
        activation: Of the network that trains with Linear Backprop, as the module is named.
        at_the_best: Which seeds of a network and rule are compared.
        paper: The paper's words on what this part shows.
    """

    side: str
    activation: str
    at_the_best: Callable[[Sequence[Run], Protocol], Seeds | None]
    paper: str

    @property
    def id(self) -> str:
        """Of the experiment and its section."""
        return f"fig3-{self.side}"


def figure3(runs: Sequence[Run], part: Part) -> Section:
    """The section, from complete runs of VGG19, at least one.

    Args:
        runs: ReLU under Backprop, and the part's activation under Linear Backprop; others are passed over.
        part: Of the figure.
    """
    members = fullest(runs)
    by_protocol: dict[Protocol, list[Pair]] = {protocol: _pairs(members, part, protocol) for protocol in CHOSEN}
    pairs = [
        (f"{name}, chosen {CHOSEN[protocol]}", backprop, linear)
        for protocol, each in by_protocol.items()
        for name, backprop, linear in each
    ]
    sides = f"ReLU with Backprop and {activation_name(part.activation)} with Linear Backprop"
    return Section(
        id=part.id,
        title=f"Figure 3, {part.side}: {sides}",
        asked=f"Do {sides} learn alike, and is Backprop's variance the higher? Each is shown at the best setting of "
        "its sweep, with several seeds of weights and order. " + scale(members),
        figures=tuple(_figure(pair, part) for pair in by_protocol["test"]),
        claims=(_alike(part, pairs), _varies(pairs)),
        table=Table.of([_row(name, seeds) for name, *sides in pairs for seeds in sides]),
        rerun=rerun(part.id, members),
    )


_LEFT = Part(
    side="left",
    activation="Tanh",
    at_the_best=longer_at_the_best,
    paper="“Learning ReLU with Backprop can yield similar results to tanh with Linear Backprop” (caption of figure 3)",
)
_RIGHT = Part(
    side="right",
    activation="ReLU",
    at_the_best=seeds_at_the_best,
    paper="“We see similar results when we compare Linear Backprop learning with ReLU and Backprop learning with ReLU” "
    "(appendix A)",
)
figure3_left, figure3_right = partial(figure3, part=_LEFT), partial(figure3, part=_RIGHT)


def _pairs(runs: Sequence[Run], part: Part, protocol: Protocol) -> list[Pair]:
    """Both sides of every network that has both."""
    pairs: list[Pair] = []
    for name, each in variants(runs).items():
        backprop, linear = under(each, BACKPROP, "ReLU"), under(each, LINEAR, part.activation)
        if not backprop or not linear:
            continue
        first, second = part.at_the_best(backprop, protocol), part.at_the_best(linear, protocol)
        if first and second:
            pairs.append((name, first, second))
    return pairs


def _figure(pair: Pair, part: Part) -> Figure:
    name, *sides = pair
    counts = " and ".join(str(len(seeds.runs)) for seeds in sides)
    return Figure(
        f"Test accuracy: {name}",
        f"A curve a seed, {counts} seeds, at the setting with the best test accuracy in the sweep, the paper's choice.",
        draw_seeds(sides, salt=f"{part.id}-{name}"),
    )


def _alike(part: Part, pairs: Sequence[Pair]) -> Claim:
    return Claim(
        claim=f"ReLU with Backprop learns as {activation_name(part.activation)} with Linear Backprop does.",
        paper=part.paper,
        measured="; ".join(
            f"{name}: mean of the best test accuracies {fmean(backprop.best):.1%} ({backprop.label}) and "
            f"{fmean(linear.best):.1%} ({linear.label})"
            for name, backprop, linear in pairs
        )
        or "no record",
        key="; ".join(
            f"{fmean(backprop.best):.1%} and {fmean(linear.best):.1%}, {name.partition(',')[0]}"
            for name, backprop, linear in pairs
            if backprop.protocol == "held_out"
        ),
        # Two networks at chance are alike for want of learning.
        verdict=all_or_some(
            [ahead_of(first, second) == 0 for _, first, second in pairs if first.learns or second.learns]
        ),
        how=f"holds where the means over seeds of the best test accuracy differ by at most {SIGNIFICANT} standard "
        "errors of the difference, from the test set and from the seeds, in every network that is above chance on "
        "either side, by both ways of choosing the setting; partly where in some",
    )


def _varies(pairs: Sequence[Pair]) -> Claim:
    spreads = [
        (name, first, second, what, one, other)
        for name, first, second in pairs
        if first.learns and second.learns
        for what, measure in (("over seeds", _spread), ("epoch to epoch", _roughness))
        for one, other in ((measure(first), measure(second)),)
        if one is not None and other is not None
    ]
    much = [one > _MUCH * other for *_, one, other in spreads]
    return Claim(
        claim="The variance of ReLU with Backprop is significantly higher.",
        paper="“However, the variance of Backprop learning with ReLU is significantly higher.” (appendix A)",
        measured="; ".join(
            f"{name}, {what}: standard deviation {one:.2%} ({first.label}) against {other:.2%} ({second.label})"
            for name, first, second, what, one, other in spreads
        )
        or "too few seeds or epochs that learn",
        verdict=all_or_some(much),
        key=f"more than {_MUCH:g} times in {sum(much)} of {len(much)}",
        how="the paper does not say of what; so both of the last test accuracy over seeds and of its change from "
        "epoch to epoch in the second half of training. Holds where Backprop's standard deviation is more than "
        f"{_MUCH:g} times Linear Backprop's by both, in every network that is above chance, and did not diverge, on "
        "both sides, by both ways of choosing the setting; partly where in some. Three seeds cannot tell a ratio below "
        "4.4 from chance (one-sided F test, p = 0.05)",
    )


def _spread(seeds: Seeds) -> float | None:
    """The standard deviation over seeds of the last epoch's test accuracy; None for one seed, or where one diverged."""
    last = [run.metrics[-1]["test_accuracy"] for run in seeds.runs]
    return stdev(last) if len(last) > 1 and _all_finished(seeds) else None


def _roughness(seeds: Seeds) -> float | None:
    """The standard deviation of the change of test accuracy from epoch to epoch, in the second half of training.

    The mean over seeds; None where a run has fewer than two such changes, or diverged.
    """
    halves = [np.diff(curve(run, "test_accuracy")[1][epochs(run) // 2 :]) for run in seeds.runs]
    if any(len(half) < 2 for half in halves) or not _all_finished(seeds):
        return None
    return float(np.mean([np.std(half, ddof=1) for half in halves]))


def _all_finished(seeds: Seeds) -> bool:
    """Otherwise some are guesses at the end, which do not vary."""
    return all(run.record["status"] == "finished" for run in seeds.runs)


def _row(name: str, seeds: Seeds) -> dict[str, str]:
    spread, rough = ("" if value is None else f"{value:.2%}" for value in (_spread(seeds), _roughness(seeds)))
    return {
        "network": name,
        "units, rule": seeds.label,
        "setting": setting(seeds.runs[0]),
        "seeds": str(len(seeds.runs)),
        "epochs": str(epochs(seeds.runs[0])),
        "mean best": f"{fmean(seeds.best):.1%}",
        "SD over seeds": spread,
        "SD epoch to epoch": rough,
    }
