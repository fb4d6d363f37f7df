"""The section on the binarized ResNet-18, which ends in the paper's own table of Precision@5 errors."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.experiments import Protocol, choose
from linear_backprop_lab.records import Run

from ._choices import PROTOCOLS, both_chosen, exceeds
from ._claims import Claim, all_or_some
from ._drawing import rule_name
from ._image_runs import BACKPROP, LINEAR, SIGNIFICANT, fullest, scale, setting, swept, under
from ._layers import layers_figures
from ._section import Figure, Section, Table
from ._seeds import Seeds, difference, draw_seeds, seeds_at_the_best

_PAPER = {BACKPROP: "28.11%", LINEAR: "18.43%"}


def bnn(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `bnn`, at least one."""
    members = fullest(runs)
    sweep = swept(members)
    seeds = {rule: seeds_at_the_best(under(members, rule), "top5_error") for rule in _PAPER if under(sweep, rule)}
    both = len(seeds) == len(_PAPER)
    return Section(
        id="bnn",
        title="Binarized ResNet-18 with hard tanh: Precision@5 error",
        asked="Which rule on the hard tanh units of a binarized network is ahead after the same number of epochs? "
        "Weights and the inputs of layers are binarized with a straight-through of their own. The Precision@5 error "
        "is the share of test images whose class is not among the five with the largest outputs. " + scale(sweep),
        figures=(_curves(seeds), *layers_figures("", sweep)) if both else (),
        claims=(_lower(sweep, seeds),) if both else (),
        table=_table(sweep, seeds),
        rerun="linear-backprop reproduce bnn --scale cpu",
    )


def _curves(seeds: dict[str, Seeds]) -> Figure:
    return Figure(
        "Precision@5 error on the test set",
        "Each rule at the setting with the lowest error at any epoch, as the paper chooses; a curve a seed. Less is "
        "better.",
        draw_seeds(list(seeds.values()), "Precision@5 error", salt="bnn-top5"),
    )


def _lower(runs: Sequence[Run], seeds: dict[str, Seeds]) -> Claim:
    pairs = {words: both_chosen(runs, protocol, "top5_error") for protocol, words in PROTOCOLS.items()}
    backprop_seeds, linear_seeds = seeds[BACKPROP], seeds[LINEAR]
    outcomes = [exceeds(backprop, linear) for backprop, linear in pairs.values()]
    outcomes += [difference(backprop_seeds, linear_seeds) > SIGNIFICANT]
    return Claim(
        experiment="bnn",
        claim="Linear Backprop's best Precision@5 error is lower than Backprop's.",
        paper="“the best Precision@5 validation error we find using Backprop is 28.11% whereas using Linear Backprop "
        "the best Precision@5 validation error is 18.43%” (section 1.2)",
        measured="; ".join(
            f"chosen {words}: {linear.value:.2%} ({setting(linear.run)}, epoch {linear.epoch}) against "
            f"{backprop.value:.2%} ({setting(backprop.run)}, epoch {backprop.epoch}) under Backprop"
            for words, (backprop, linear) in pairs.items()
        )
        + f"; mean of the best over seeds: {linear_seeds.described()} against {backprop_seeds.described()}",
        verdict=all_or_some(outcomes),
        how="holds where Backprop's error is above Linear Backprop's by more than 1.96 standard errors of the "
        "difference by both ways of choosing (seed 0) and in the mean over seeds at the setting that the test set "
        "chooses; partly where in some",
    )


def _table(runs: Sequence[Run], seeds: dict[str, Seeds]) -> Table:
    """The paper's own: the best Precision@5 error of each rule, beside ours."""
    rows = [
        (
            rule_name(rule),
            _PAPER[rule],
            *(_best(under(runs, rule), protocol) for protocol in PROTOCOLS),
            each.described(),
        )
        for rule, each in seeds.items()
    ]
    chosen = (f"here, chosen {words}" for words in PROTOCOLS.values())
    return Table(("best Precision@5 error", "the paper", *chosen, "over seeds, the paper's choice"), tuple(rows))


def _best(runs: Sequence[Run], protocol: Protocol) -> str:
    choice = choose(runs, protocol, "top5_error")
    return f"{choice.value:.2%} ({setting(choice.run)}, epoch {choice.epoch})"
