"""The section on the paper's learning rate: VGG19 with tanh, for longer than the sweep takes at a small scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Section, all_or_some
from linear_backprop_lab.studies.images.choices import choice_table, comparisons, leader, under_both
from linear_backprop_lab.studies.images.claims import MOST, ahead
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.seeds import Seeds, best_seeds_figure, both_seeds
from linear_backprop_lab.studies.images.settings import Networks, epochs, epochs_ahead, fullest, variants
from linear_backprop_lab.studies.images.sweep import PAPER_SIZE


def paper_rate(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `paper-rate`, at least one."""
    members = fullest(runs)
    networks = variants(members)
    compared = under_both(networks)
    figures = {
        name: best_seeds_figure(
            f"Test accuracy at learning rate 0.001: tanh, {name}", each, f"paper-rate-{name}", chosen="l2 penalty"
        )
        for name, each in compared.items()
    }
    claim = "At the paper's learning rate Linear Backprop is ahead of Backprop, with tanh."
    paper = "figure 2, at the best of learning rates of 0.001 and less"
    return Section(
        id="paper-rate",
        title="The paper's learning rate: VGG19 with tanh at 0.001",
        asked="The paper's learning rates end at 0.001, where those of the small sweep begin: few steps want larger "
        "ones. Is Linear Backprop, whose gradients are longer, ahead at a rate as small as the paper's, and for how "
        "long? " + scale(members),
        figures=tuple(figures.values()),
        claims=(ahead(compared, claim=claim, paper=paper), _keeps_ahead(compared)) if compared else (),
        table=choice_table(networks),
        rerun=rerun("paper-rate", members),
        finding=_finding(compared) if compared else "",
        headline=figures.get("with batch norm"),
    )


def _finding(networks: Networks) -> str:
    leads = "; ".join(f"{name} {_leads(runs)}" for name, runs in reversed(networks.items()))
    return f"At the paper's learning rate of {PAPER_SIZE.learning_rates[0]:g}, {leads}."


def _leads(runs: Sequence[Run]) -> str:
    """Which rule does, whatever way the penalty is chosen, and the means over seeds."""
    compared = comparisons(runs)
    backprop, linear = (seeds.described() for seeds in compared[-1].seeds)
    return {
        1: f"Linear Backprop leads, {linear} test accuracy against Backprop's {backprop}",
        -1: f"Backprop leads, {backprop} against Linear Backprop's {linear}",
        0: f"neither leads throughout, {linear} under Linear Backprop and {backprop} under Backprop",
    }[leader(compared)]


def _keeps_ahead(compared: Networks) -> Claim:
    counts = {name: _epochs_ahead(*both_seeds(runs, "test")) for name, runs in compared.items()}
    return Claim(
        claim="At the paper's learning rate Linear Backprop is ahead for most of training.",
        paper="figure 2",
        measured="; ".join(f"{name}: ahead after {won} of {judged} epochs" for name, (won, judged) in counts.items()),
        verdict=all_or_some([won >= MOST * judged for won, judged in counts.values()]),
        key="; ".join(f"{won} of {judged} epochs, {name}" for name, (won, judged) in counts.items()),
        how="each rule at the l2 penalty that the test set chooses, seed by seed; holds where its test accuracy is the "
        f"higher after {MOST:.0%} of the epochs at least, with and without batch normalization; partly where with "
        "one of them; an epoch after divergence is behind",
    )


def _epochs_ahead(backprop: Seeds, linear: Seeds) -> tuple[int, int]:
    """After how many epochs Linear Backprop's accuracy is the higher, and how many there are, over the seeds."""
    pairs = list(zip(backprop.runs, linear.runs, strict=False))
    return sum(itertools.starmap(epochs_ahead, pairs)), sum(epochs(run) for run, _ in pairs)
