"""The section on figure 2: VGG19 with tanh, each rule at its best setting."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.studies.images.choices import (
    CHOICE_COLUMNS,
    choice_rows,
    comparisons,
    described,
    is_learned,
    key_numbers,
    learned,
    linear_is_ahead,
    under_both,
)
from linear_backprop_lab.studies.images.layers import layers_figures, vanishing
from linear_backprop_lab.studies.images.seeds import Seeds, both_seeds, draw_seeds
from linear_backprop_lab.studies.images.settings import (
    Networks,
    chance,
    fullest,
    scale,
    swept,
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
        finding=_finding(again) if compared else "",
        table=Table(CHOICE_COLUMNS, tuple(rows)),
        rerun="linear-backprop reproduce fig2 --scale cpu",
    )


def _finding(networks: Networks) -> str:
    compared = [(name, each) for name, runs in networks.items() for each in comparisons(runs)]
    directions = {outcome for _, each in compared for outcome in each.outcomes}
    winner = {frozenset([1]): "Linear Backprop leads", frozenset([-1]): "Backprop leads"}.get(
        frozenset(directions), "neither rule leads throughout"
    )
    return (
        f"Where each rule may choose its learning rate, {winner} with tanh. Test accuracy of Linear Backprop against "
        f"Backprop: {key_numbers(compared)}."
    )


def _curves(name: str, pair: tuple[Seeds, Seeds]) -> Figure:
    return Figure(
        f"Test accuracy: tanh, {name}",
        "Each rule at the setting with the best test accuracy at any epoch, as the paper chooses; a curve a seed.",
        draw_seeds(pair, "test accuracy", salt=f"fig2-{name}"),
    )


def _learns(compared: Networks) -> Claim:
    best = learned(compared, "held_out")
    return Claim(
        experiment="fig2",
        claim="With Linear Backprop a deep network of tanh units learns.",
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue learning.” "
        "(section 1.2)",
        measured="; ".join(
            f"{name}: every run diverged"
            if each is None
            else f"{name}: {described(each)}, chance {chance(each.run):.0%}"
            for name, each in best.items()
        ),
        verdict=all_or_some(list(map(is_learned, best.values()))),
        key="; ".join(f"{each.value:.1%}, {name}" for name, each in best.items() if each is not None),
        how="of the runs that did not diverge; holds where the test accuracy, chosen on held-out images, is above "
        "chance by more than 1.96 standard errors of the test set with and without batch normalization; partly where "
        "with one of them",
    )


def _ahead(networks: Networks) -> Claim:
    return linear_is_ahead(
        networks,
        experiment="fig2",
        claim="With tanh, Linear Backprop is ahead of Backprop, each at its best setting.",
        paper="“Unlike Backprop with tanh shown in Figure 2, Backprop with ReLU is able to match learning with tanh "
        "and Linear Backprop.” (appendix A)",
    )
