"""The section on the binarized ResNet-18, which ends in the paper's own table of Precision@5 errors."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, PercentFormatter

from linear_backprop_lab.experiments import Choice, Protocol, choose
from linear_backprop_lab.records import Run

from ._claims import Claim, all_or_some
from ._drawing import RULE_COLORS, RULE_MARKERS, axes, rule_name, to_svg
from ._figure2 import PROTOCOLS, exceeds
from ._image_runs import BACKPROP, LINEAR, curve, fullest, scale, setting, swept, under
from ._layers import layers_figures
from ._section import Figure, Section, Table

_PAPER = {BACKPROP: "28.11%", LINEAR: "18.43%"}


def bnn(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `bnn`, at least one."""
    sweep = swept(fullest(runs))
    both = bool(under(sweep, BACKPROP) and under(sweep, LINEAR))
    return Section(
        id="bnn",
        title="Binarized ResNet-18 with hard tanh: Precision@5 error",
        asked="Which rule on the hard tanh units of a binarized network is ahead after the same number of epochs? "
        "Weights and the inputs of layers are binarized with a straight-through of their own. The Precision@5 error "
        "is the share of test images whose class is not among the five with the largest outputs. " + scale(sweep),
        figures=(_curves(sweep), *layers_figures("", sweep)) if both else (),
        claims=(_lower(sweep),) if both else (),
        table=_table(sweep),
        rerun="linear-backprop reproduce bnn --scale cpu",
    )


def _curves(runs: Sequence[Run]) -> Figure:
    with axes() as drawn:
        for rule in (BACKPROP, LINEAR):
            run = choose(under(runs, rule), "test", "top5_error").run
            label = f"{rule_name(rule)}, {setting(run)}"
            drawn.plot(*curve(run, "test_top5_error"), color=RULE_COLORS[rule], marker=RULE_MARKERS[rule], label=label)
        drawn.set_xlabel("epoch")
        drawn.set_ylabel("Precision@5 error")
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        drawn.set_ylim(bottom=0)
        drawn.legend(fontsize="small")
        svg = to_svg(drawn, salt="bnn-top5")
    return Figure(
        "Precision@5 error on the test set",
        "Each rule at the setting with the lowest error at any epoch, as the paper chooses; one seed. Less is better.",
        svg,
    )


def _lower(runs: Sequence[Run]) -> Claim:
    pairs: dict[Protocol, tuple[Choice, ...]] = {
        protocol: tuple(choose(under(runs, rule), protocol, "top5_error") for rule in (BACKPROP, LINEAR))
        for protocol in PROTOCOLS
    }
    return Claim(
        experiment="bnn",
        claim="Linear Backprop's best Precision@5 error is lower than Backprop's.",
        paper="“the best Precision@5 validation error we find using Backprop is 28.11% whereas using Linear Backprop "
        "the best Precision@5 validation error is 18.43%” (section 1.2)",
        measured="; ".join(
            f"chosen {PROTOCOLS[protocol]}: {linear.value:.2%} ({setting(linear.run)}, epoch {linear.epoch}) against "
            f"{backprop.value:.2%} ({setting(backprop.run)}, epoch {backprop.epoch}) under Backprop"
            for protocol, (backprop, linear) in pairs.items()
        ),
        verdict=all_or_some([exceeds(backprop, linear) for backprop, linear in pairs.values()]),
        how="holds where Backprop's error is above Linear Backprop's by more than 1.96 standard errors of the "
        "difference on the test set by both ways of choosing; partly where by one; one seed",
    )


def _table(runs: Sequence[Run]) -> Table:
    """The paper's own: the best Precision@5 error of each rule, beside ours."""
    rows = [
        (rule_name(rule), _PAPER[rule], *(_best(under(runs, rule), protocol) for protocol in PROTOCOLS))
        for rule in (BACKPROP, LINEAR)
        if under(runs, rule)
    ]
    columns = ("best Precision@5 error", "the paper", *(f"here, chosen {words}" for words in PROTOCOLS.values()))
    return Table(columns, tuple(rows))


def _best(runs: Sequence[Run], protocol: Protocol) -> str:
    choice = choose(runs, protocol, "top5_error")
    return f"{choice.value:.2%} ({setting(choice.run)}, epoch {choice.epoch})"
