"""The section on figure 2: VGG19 with tanh, each rule at its best setting."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Section
from linear_backprop_lab.studies.images.choices import choice_table, comparisons, key_numbers, leader, under_both
from linear_backprop_lab.studies.images.claims import ahead, learns
from linear_backprop_lab.studies.images.layers import layers_figures, vanishing
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.seeds import best_seeds_figure
from linear_backprop_lab.studies.images.settings import Networks, fullest, swept, variants


def figure2(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh, at least one."""
    members = fullest(runs)
    sweep = swept(members)
    networks = variants(sweep)
    compared = under_both(networks)
    again = {name: each for name, each in variants(members).items() if name in compared}
    claim = "With tanh, Linear Backprop is ahead of Backprop, each at its best setting."
    return Section(
        id="fig2",
        title="Figure 2: VGG19 with tanh, each rule at its best",
        asked="Does Linear Backprop keep a deep network of tanh units learning where Backprop's gradients vanish? Each "
        "rule is shown at the learning rate and l2 penalty of the sweep in figure 4 that were best for it. "
        + scale(sweep),
        figures=tuple(
            figure
            for name, each in compared.items()
            for figure in (
                best_seeds_figure(f"Test accuracy: tanh, {name}", again[name], salt=f"fig2-{name}"),
                *layers_figures(name, each),
            )
        ),
        claims=(learns(compared), vanishing(compared), ahead(again, claim=claim)) if compared else (),
        finding=_finding(again) if compared else "",
        table=choice_table(networks),
        rerun=rerun("fig2", sweep),
    )


def _finding(networks: Networks) -> str:
    compared = [(name, each) for name, runs in networks.items() for each in comparisons(runs)]
    winners = {1: "Linear Backprop leads", -1: "Backprop leads", 0: "neither rule leads throughout"}
    return (
        f"Where each rule may choose its learning rate, {winners[leader([each for _, each in compared])]} with tanh. "
        f"Test accuracy of Linear Backprop against Backprop: {key_numbers(compared)}."
    )
