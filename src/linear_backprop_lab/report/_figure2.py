"""The section on figure 2: VGG19 with tanh, each rule at its best setting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from linear_backprop_lab.experiments import Choice, Metric, Protocol, choose
from linear_backprop_lab.records import Run

from ._claims import Claim, all_or_some
from ._drawing import RULE_COLORS, RULE_MARKERS, axes, rule_name, to_svg
from ._image_runs import (
    BACKPROP,
    LINEAR,
    SIGNIFICANT,
    chance,
    curve,
    fullest,
    scale,
    setting,
    standard_error,
    swept,
    under,
    variants,
)
from ._layers import layers_figures, vanishing
from ._section import Figure, Section, Table

PROTOCOLS: dict[Protocol, str] = {"test": "on the test set (the paper's)", "held_out": "on held-out images (sound)"}


def figure2(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh, at least one."""
    sweep = swept(fullest(runs))
    compared = {name: each for name, each in variants(sweep).items() if under(each, BACKPROP) and under(each, LINEAR)}
    figures = [
        figure for name, each in compared.items() for figure in (_curves(name, each), *layers_figures(name, each))
    ]
    return Section(
        id="fig2",
        title="Figure 2: VGG19 with tanh, each rule at its best",
        asked="Does Linear Backprop keep a deep network of tanh units learning where Backprop's gradients vanish? Each "
        "rule is shown at the learning rate and l2 penalty of the sweep in figure 4 that were best for it. "
        + scale(sweep),
        figures=tuple(figures),
        claims=(_learns(compared), vanishing("fig2", compared), _ahead(compared)) if compared else (),
        table=choices_table(variants(sweep), "accuracy"),
        rerun="linear-backprop reproduce fig2 --scale cpu",
    )


def choices_table(compared: dict[str, list[Run]], metric: Metric) -> Table:
    """Each rule at its best by either protocol: the setting, the epoch, and what the test set says there."""
    rows = [
        (name, rule_name(rule), words, setting(choice.run), str(choice.epoch), *_numbers(choice))
        for name, each in compared.items()
        for rule in (BACKPROP, LINEAR)
        if under(each, rule)
        for protocol, words in PROTOCOLS.items()
        for choice in (choose(under(each, rule), protocol, metric),)
    ]
    columns = ("network", "rule", "chosen", "setting", "epoch", "test accuracy", "Precision@5 error")
    return Table(columns, tuple(rows))


def _numbers(choice: Choice) -> tuple[str, str]:
    line = choice.run.metrics[choice.epoch - 1]
    return f"{line['test_accuracy']:.1%}", f"{line['test_top5_error']:.2%}"


def _curves(name: str, runs: Sequence[Run]) -> Figure:
    chosen = {rule: choose(under(runs, rule), "test") for rule in (BACKPROP, LINEAR)}
    with axes() as drawn:
        for rule, choice in chosen.items():
            label = f"{rule_name(rule)}, {setting(choice.run)}"
            drawn.plot(
                *curve(choice.run, "test_accuracy"), color=RULE_COLORS[rule], marker=RULE_MARKERS[rule], label=label
            )
        as_accuracy(drawn)
        drawn.legend(fontsize="small")
        svg = to_svg(drawn, salt=f"fig2-{name}")
    return Figure(
        f"Test accuracy: tanh, {name}",
        "Each rule at the setting with the best test accuracy at any epoch, as the paper chooses; one seed.",
        svg,
    )


def as_accuracy(drawn: Axes) -> None:
    """Label axes that show test accuracy over epochs."""
    drawn.set_xlabel("epoch")
    drawn.set_ylabel("test accuracy")
    drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    drawn.set_ylim(bottom=0)


def _learns(compared: dict[str, list[Run]]) -> Claim:
    best = {name: choose(under(runs, LINEAR), "held_out") for name, runs in compared.items()}
    return Claim(
        experiment="fig2",
        claim="With Linear Backprop a deep network of tanh units learns.",
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue learning.” "
        "(section 1.2)",
        measured="; ".join(
            f"{name}: {described(choice)}, chance {chance(choice.run):.0%}" for name, choice in best.items()
        ),
        verdict=all_or_some(
            [
                each.value - chance(each.run) > SIGNIFICANT * standard_error(each.run, chance(each.run))
                for each in best.values()
            ]
        ),
        how="holds where the test accuracy, chosen on held-out images, is above chance by more than 1.96 standard "
        "errors of the test set with and without batch normalization; partly where with one of them",
    )


def described(choice: Choice) -> str:
    """What was chosen, with its value as a percentage."""
    return f"{choice.value:.1%} ({setting(choice.run)}, epoch {choice.epoch})"


def _ahead(compared: dict[str, list[Run]]) -> Claim:
    pairs: dict[tuple[str, Protocol], tuple[Choice, ...]] = {
        (name, protocol): tuple(choose(under(runs, rule), protocol) for rule in (BACKPROP, LINEAR))
        for name, runs in compared.items()
        for protocol in PROTOCOLS
    }
    return Claim(
        experiment="fig2",
        claim="With tanh, Linear Backprop is ahead of Backprop, each at its best setting.",
        paper="“Unlike Backprop with tanh shown in Figure 2, Backprop with ReLU is able to match learning with tanh "
        "and Linear Backprop.” (appendix A)",
        measured="; ".join(
            f"{name}, chosen {PROTOCOLS[protocol]}: {described(linear)} against {described(backprop)} under Backprop"
            for (name, protocol), (backprop, linear) in pairs.items()
        ),
        verdict=all_or_some([exceeds(linear, backprop) for backprop, linear in pairs.values()]),
        how="holds where Linear Backprop's test accuracy is above Backprop's by more than 1.96 standard errors of the "
        "difference, with and without batch normalization and by both ways of choosing; partly where in some; one seed",
    )


def exceeds(first: Choice, second: Choice) -> bool:
    """Whether a share is above another by more than 1.96 standard errors of their difference on the test set."""
    error = math.hypot(standard_error(first.run, first.value), standard_error(second.run, second.value))
    return first.value - second.value > SIGNIFICANT * error
