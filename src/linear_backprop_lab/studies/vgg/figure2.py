"""The section on figure 2: VGG19 with tanh, each rule at its best setting."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.studies.images.choices import (
    CHOICE_COLUMNS,
    choice_rows,
    described,
    linear_is_ahead,
    under_both,
)
from linear_backprop_lab.studies.images.layers import layers_figures, vanishing
from linear_backprop_lab.studies.images.seeds import Seeds, both_seeds, draw_seeds
from linear_backprop_lab.studies.images.selection import choose
from linear_backprop_lab.studies.images.settings import (
    LINEAR,
    Networks,
    chance,
    fullest,
    is_above_chance,
    scale,
    swept,
    under,
    variants,
)


def figure2(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh, at least one."""
    members = fullest(runs)
    sweep = swept(members)
    networks = variants(sweep)
    compared = under_both(networks)
    again = {name: each for name, each in variants(members).items() if name in compared}
    figures = [
        figure
        for name, each in compared.items()
        for figure in (_curves(name, both_seeds(again[name], "test")), *layers_figures(name, each))
    ]
    rows = [row for name, each in networks.items() for row in choice_rows(name, each)]
    return Section(
        id="fig2",
        title="Figure 2: VGG19 with tanh, each rule at its best",
        asked="Does Linear Backprop keep a deep network of tanh units learning where Backprop's gradients vanish? Each "
        "rule is shown at the learning rate and l2 penalty of the sweep in figure 4 that were best for it. "
        + scale(sweep),
        figures=tuple(figures),
        claims=(_learns(compared), vanishing("fig2", compared), _ahead(again)) if compared else (),
        table=Table(CHOICE_COLUMNS, tuple(rows)),
        rerun="linear-backprop reproduce fig2 --scale cpu",
    )


def _curves(name: str, pair: tuple[Seeds, Seeds]) -> Figure:
    return Figure(
        f"Test accuracy: tanh, {name}",
        "Each rule at the setting with the best test accuracy at any epoch, as the paper chooses; a curve a seed.",
        draw_seeds(pair, "test accuracy", salt=f"fig2-{name}"),
    )


def _learns(compared: Networks) -> Claim:
    best = {name: choose(under(runs, LINEAR), "held_out") for name, runs in compared.items()}
    return Claim(
        experiment="fig2",
        claim="With Linear Backprop a deep network of tanh units learns.",
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue learning.” "
        "(section 1.2)",
        measured="; ".join(
            f"{name}: {described(choice)}, chance {chance(choice.run):.0%}" for name, choice in best.items()
        ),
        verdict=all_or_some([is_above_chance(each.run, each.value) for each in best.values()]),
        how="holds where the test accuracy, chosen on held-out images, is above chance by more than 1.96 standard "
        "errors of the test set with and without batch normalization; partly where with one of them",
    )


def _ahead(networks: Networks) -> Claim:
    return linear_is_ahead(
        networks,
        experiment="fig2",
        claim="With tanh, Linear Backprop is ahead of Backprop, each at its best setting.",
        paper="“Unlike Backprop with tanh shown in Figure 2, Backprop with ReLU is able to match learning with tanh "
        "and Linear Backprop.” (appendix A)",
    )
