"""Runs that differ in the seed alone: their mean, their curves, and how far apart two such groups are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Figure
from linear_backprop_lab.report.drawing import RULE_STYLES, as_share, axes, label_ends, to_svg
from linear_backprop_lab.report.names import BACKPROP, LINEAR, activation_name, rule_name

from .selection import Metric, Protocol, choose
from .settings import (
    curve,
    direction,
    epochs,
    is_above_chance,
    learning_rate,
    penalty,
    seed,
    setting,
    standard_error,
    swept,
    under,
)

_METRICS: dict[Metric, str] = {"accuracy": "test accuracy", "top5_error": "Precision@5 error"}


@dataclass(frozen=True)
class Seeds:
    """The runs of one network, rule and setting that differ in the seed alone, at least one.

    Attributes:
        runs: In the order of their seeds.
        protocol: Which images choose the epoch.
        metric: What they are judged by, on the test set.
    """

    runs: tuple[Run, ...]
    protocol: Protocol = "test"
    metric: Metric = "accuracy"

    @property
    def rule(self) -> str:
        """The rule of all of them."""
        return self.runs[0].config["rule"]

    @property
    def label(self) -> str:
        """The activation and the rule."""
        return f"{activation_name(self.runs[0].config['model']['activation'])}, {rule_name(self.rule)}"

    @property
    def best(self) -> list[float]:
        """The value on the test set of each seed's run at its best epoch."""
        return [choose([run], self.protocol, self.metric).value for run in self.runs]

    @property
    def error(self) -> float:
        """The standard error of the mean of `best`: the test set's, which all seeds share, and the seeds' own."""
        of_seeds = stdev(self.best) / math.sqrt(len(self.best)) if len(self.best) > 1 else 0.0
        return math.hypot(standard_error(self.runs[0], fmean(self.best)), of_seeds)

    @property
    def learns(self) -> bool:
        """Whether none diverged, and the mean of the best accuracies is above chance by 1.96 of its standard errors."""
        if any(run.record["status"] == "diverged" for run in self.runs):
            return False
        return is_above_chance(self.runs[0], fmean(Seeds(self.runs, self.protocol).best))

    @property
    def mean(self) -> str:
        """The mean of `best`, in percent."""
        return f"{fmean(self.best):.1%}"

    def described(self) -> str:
        """The mean of `best`, its standard deviation and the number of seeds."""
        deviation = f" ± {stdev(self.best):.1%}" if len(self.best) > 1 else ""
        return f"{fmean(self.best):.1%}{deviation} (n = {len(self.best)})"


def seeds_at_the_best(runs: Sequence[Run], protocol: Protocol, metric: Metric = "accuracy") -> Seeds:
    """The seeds at the setting that was the best of the sweep.

    Args:
        runs: Of one network and rule, the sweep's among them; longer ones are passed over.
        protocol: That chooses.
        metric: That chooses, and judges.
    """
    best = choose(swept(runs), protocol, metric).run
    return Seeds(_again(best, runs, epochs(best)), protocol, metric)


def both_seeds(runs: Sequence[Run], protocol: Protocol, metric: Metric = "accuracy") -> tuple[Seeds, Seeds]:
    """The seeds at the best setting under Backprop and under Linear Backprop, both of which are among the runs."""
    backprop, linear = (seeds_at_the_best(under(runs, rule), protocol, metric) for rule in (BACKPROP, LINEAR))
    return backprop, linear


def longer_at_the_best(runs: Sequence[Run], protocol: Protocol) -> Seeds | None:
    """The longest runs at that setting; None where none is longer than the sweep's."""
    best, length = choose(swept(runs), protocol).run, max(map(epochs, runs))
    chosen = _again(best, runs, length)
    return Seeds(chosen, protocol) if chosen and length > epochs(best) else None


def _again(best: Run, runs: Sequence[Run], length: int) -> tuple[Run, ...]:
    """Those at the setting of the best, of so many epochs, in the order of their seeds."""
    chosen = [run for run in runs if _setting(run) == _setting(best) and epochs(run) == length]
    return tuple(sorted(chosen, key=seed))


def _setting(run: Run) -> tuple[float, float]:
    return learning_rate(run), penalty(run)


def ahead_of(first: Seeds, second: Seeds) -> int:
    """1 where the first's mean is above the second's beyond error, -1 where it is below, else 0."""
    return direction(fmean(first.best) - fmean(second.best), math.hypot(first.error, second.error))


def best_seeds_figure(
    title: str, runs: Sequence[Run], salt: str, *, chosen: str = "setting", metric: Metric = "accuracy"
) -> Figure:
    """The curve of every seed at the setting that the test set chooses under each rule.

    Args:
        title: Of the figure.
        runs: Under both rules.
        salt: As in `to_svg`.
        chosen: What the sweep varies.
        metric: That chooses, and is shown.
    """
    best, hint = ("best test accuracy", "") if metric == "accuracy" else ("lowest error", " Less is better.")
    return Figure(
        title,
        f"Each rule at the {chosen} with the {best} at any epoch, as the paper chooses; a curve a seed.{hint}",
        draw_seeds(both_seeds(runs, "test", metric), salt),
    )


def draw_seeds(groups: Sequence[Seeds], salt: str) -> str:
    """The curve of every seed's metric on the test set over epochs, as SVG, in the colours of their rules."""
    with axes() as drawn:
        for seeds in groups:
            for number, run in enumerate(seeds.runs):
                drawn.plot(
                    *curve(run, f"test_{seeds.metric}"),
                    **RULE_STYLES[seeds.rule],
                    # A marker an epoch would hide a curve of a thousand.
                    markevery=max(1, epochs(run) // 10),
                    alpha=0.8,
                    linewidth=1.2,
                    label=f"{seeds.label},\n{setting(run)}" if number == 0 else None,
                )
        as_share(drawn, _METRICS[groups[0].metric])
        drawn.set_xlabel("epoch")
        label_ends(drawn, apart=0.18)
        return to_svg(drawn, salt)
