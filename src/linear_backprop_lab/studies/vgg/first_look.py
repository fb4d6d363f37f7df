"""The section on images: learning curves of VGG19 with tanh under Backprop and Linear Backprop."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.drawing import RULE_STYLES, axes, label_ends, rule_name, to_svg
from linear_backprop_lab.studies.images.settings import (
    BACKPROP,
    LINEAR,
    SIGNIFICANT,
    chance,
    curve,
    data_name,
    first_loss,
    is_above_chance,
    learning_rate,
    standard_error,
)


@dataclass(frozen=True)
class _Comparison:
    """Runs that differ in rule and learning rate alone, in the order of both."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        config = self.runs[0].config
        return f"{data_name(self.runs[0])}, {'with' if config['model']['batch_norm'] else 'no'} batch norm"

    @property
    def learning_rates(self) -> list[float]:
        return sorted({learning_rate(run) for run in self.runs})

    def under(self, rule: str) -> list[Run]:
        return [run for run in self.runs if run.config["rule"] == rule]

    def best(self, rule: str) -> Run:
        return max(self.under(rule), key=_best)

    def best_finished(self, rule: str) -> Run:
        """Of those that did not diverge, where there are any."""
        runs = self.under(rule)
        return max([run for run in runs if not _diverged(run)] or runs, key=_best)

    def matched(self) -> list[tuple[Run, Run]]:
        """Backprop's run and Linear Backprop's, at every learning rate both were run with."""
        linear = {learning_rate(run): run for run in self.under(LINEAR)}
        backprop = [run for run in self.under(BACKPROP) if learning_rate(run) in linear]
        return [(run, linear[learning_rate(run)]) for run in backprop]


def images(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `images`, at least one.

    Claims are made of what was run under both rules; the table lists every run.
    """
    comparisons = _comparisons(runs)
    return Section(
        id="images",
        title="A first look: VGG19 with tanh on a part of the images",
        asked=_asked(runs),
        figures=tuple(figure for comparison in comparisons for figure in _figures(comparison)),
        claims=(_flows(comparisons), _competitive(comparisons), _early(comparisons)) if comparisons else (),
        table=_table(runs),
        rerun="linear-backprop reproduce images",
    )


def _comparisons(runs: Sequence[Run]) -> list[_Comparison]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (learning_rate(run), run.config["rule"])):
        recipe = {**run.config["recipe"], "learning_rate": None}
        groups[json.dumps({**run.config, "rule": None, "recipe": recipe}, sort_keys=True)].append(run)
    comparisons = [_Comparison(tuple(group)) for group in groups.values()]
    complete = [each for each in comparisons if each.under(BACKPROP) and each.under(LINEAR)]
    return sorted(complete, key=lambda comparison: comparison.name)


def _asked(runs: Sequence[Run]) -> str:
    sources = sorted({run.record["source"] for run in runs})
    return (
        "The paper's figure 2 trains VGG19 with tanh units on CIFAR-10 for 100 epochs and finds that Linear "
        "Backprop keeps learning where tanh units saturate. Here the same network, narrowed, is trained for "
        "a few epochs on a part of the data, with plain SGD, from the same initialisation under both rules: "
        "a first look at early learning, not figure 2 itself. Data: " + "; ".join(sources) + "."
    )


def _figures(comparison: _Comparison) -> list[Figure]:
    return [
        _curves(comparison, "test_accuracy", "Test accuracy", _as_percentage),
        _curves(comparison, "train_loss", "Training loss", lambda drawn: None),
    ]


def _as_percentage(drawn: Axes) -> None:
    drawn.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    drawn.set_ylim(bottom=0)


def _curves(comparison: _Comparison, metric: str, label: str, decorate: Callable[[Axes], None]) -> Figure:
    with axes() as drawn:
        for run in comparison.runs:
            _curve(drawn, run, metric, hollow=learning_rate(run) != comparison.learning_rates[-1])
        drawn.set_xlabel("epoch")
        drawn.set_ylabel(label.lower())
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        decorate(drawn)
        label_ends(drawn, apart=0.16)
        svg = to_svg(drawn, salt=f"{comparison.runs[0].key}-{metric}")
    config = comparison.runs[0].config
    caption = (
        f"{config['train_images']:,} training and {config['test_images']:,} test images, batches of "
        f"{config['recipe']['batch_size']}, one seed; hollow marks: the smaller learning rates. {_endings(comparison)}"
    )
    return Figure(f"{label}: {comparison.name}", caption.strip(), svg)


def _curve(drawn: Axes, run: Run, metric: str, *, hollow: bool) -> None:
    style = RULE_STYLES[run.config["rule"]]
    drawn.plot(
        *curve(run, metric),
        **style,
        markerfacecolor="none" if hollow else style["color"],
        label=f"{rule_name(run.config['rule'])},\nlr {learning_rate(run):g}",
    )


def _endings(comparison: _Comparison) -> str:
    """Why a curve stops early."""
    return " ".join(
        f"{rule_name(run.config['rule'])}, lr {learning_rate(run):g}: diverged in epoch {run.record['epochs']}."
        for run in comparison.runs
        if run.record["status"] == "diverged"
    )


def _flows(comparisons: Sequence[_Comparison]) -> Claim:
    best = {comparison.name: comparison.best_finished(LINEAR) for comparison in comparisons}
    return Claim(
        experiment="images",
        claim="With Linear Backprop a deep network of tanh units learns.",
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue "
        "learning.” (section 1.2)",
        measured="; ".join(f"{name}: {_described(run)}, chance {chance(run):.0%}" for name, run in best.items()),
        verdict=all_or_some([not _diverged(run) and is_above_chance(run, _best(run)) for run in best.values()]),
        key="; ".join(f"{_best(run):.1%}, {name.rpartition(', ')[2]}" for name, run in best.items()),
        how="of the runs that did not diverge, where there are any; holds where the best test accuracy is above "
        "chance by more than 1.96 standard errors of the test set in every comparison; partly where in some",
    )


def _competitive(comparisons: Sequence[_Comparison]) -> Claim:
    best = {each.name: (each.best(BACKPROP), each.best(LINEAR)) for each in comparisons}
    return Claim(
        experiment="images",
        claim="Learning with Linear Backprop is competitive with Backprop.",
        paper="“learning with Linear Backprop is competitive with Backprop” (abstract); figure 2",
        measured="; ".join(
            f"{name}: {_described(linear)} against {_described(backprop)} under Backprop"
            for name, (backprop, linear) in best.items()
        ),
        verdict=all_or_some([_is_level(*pair) for pair in best.values()]),
        key="; ".join(
            f"{_best(linear):.1%} against {_best(backprop):.1%}, {name.rpartition(', ')[2]}"
            for name, (backprop, linear) in best.items()
        ),
        how="each rule at its best learning rate and epoch on the test set, as in the paper; holds where "
        "Linear Backprop is not below by more than 1.96 standard errors of the difference in every "
        "comparison; partly where in some",
    )


def _is_level(backprop: Run, linear: Run) -> bool:
    error = math.hypot(standard_error(backprop, _best(backprop)), standard_error(linear, _best(linear)))
    return _best(linear) - _best(backprop) >= -SIGNIFICANT * error


def _early(comparisons: Sequence[_Comparison]) -> Claim:
    pairs = [(each.name, *pair) for each in comparisons for pair in each.matched()]
    return Claim(
        experiment="images",
        claim="Early in training Linear Backprop is ahead of Backprop.",
        paper="“In the early stages of learning, Linear Backprop in particular performs favorably compared "
        "with Backprop learning.” (appendix B)",
        measured="; ".join(
            f"{name}, lr {learning_rate(linear):g}: training loss of epoch 1 {first_loss(linear):.3f} "
            f"against {first_loss(backprop):.3f} under Backprop"
            for name, backprop, linear in pairs
        ),
        verdict=all_or_some([first_loss(linear) < first_loss(backprop) for _, backprop, linear in pairs]),
        key=f"in {sum(first_loss(linear) < first_loss(backprop) for _, backprop, linear in pairs)} of {len(pairs)}",
        how="holds where the mean training loss of the first epoch is lower in every comparison at every "
        "learning rate; partly where in some; infinite where training diverged; one seed, so no interval",
    )


def _described(run: Run) -> str:
    later = ", before it diverged" if run.record["status"] == "diverged" else ""
    return f"{_best(run):.1%} (lr {learning_rate(run):g}{later})"


def _diverged(run: Run) -> bool:
    return run.record["status"] == "diverged"


def _best(run: Run) -> float:
    return run.record["best_test_accuracy"]


def _table(runs: Sequence[Run]) -> Table:
    columns = (
        "data",
        "batch norm",
        "rule",
        "learning rate",
        "epochs",
        "train loss",
        "test accuracy",
        "best",
        "time",
    )
    rows = sorted(
        runs,
        key=lambda run: (
            run.config["data"],
            not run.config["model"]["batch_norm"],
            learning_rate(run),
            run.config["rule"],
        ),
    )
    return Table(columns=columns, rows=tuple(map(_row, rows)))


def _row(run: Run) -> tuple[str, ...]:
    config, record, last = run.config, run.record, run.metrics[-1]
    loss = last["train_loss"]
    return (
        data_name(run),
        "yes" if config["model"]["batch_norm"] else "no",
        rule_name(config["rule"]),
        f"{learning_rate(run):g}",
        f"{record['epochs']} of {config['recipe']['epochs']}",
        "diverged" if loss is None else f"{loss:.3f}",
        f"{last['test_accuracy']:.1%}",
        f"{_best(run):.1%}",
        f"{record['seconds']:.0f} s",
    )
