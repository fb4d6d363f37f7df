"""The section on the binarized ResNet-18, which ends in the paper's own table of Precision@5 errors."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Section, Table, by_direction
from linear_backprop_lab.report.names import BACKPROP, LINEAR, rule_name
from linear_backprop_lab.studies.images.choices import CHOSEN, comparisons, described
from linear_backprop_lab.studies.images.layers import layers_figures
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.seeds import best_seeds_figure, seeds_at_the_best
from linear_backprop_lab.studies.images.selection import Protocol, choose
from linear_backprop_lab.studies.images.settings import SIGNIFICANT, fullest, swept, under

_PAPER = {BACKPROP: "28.11%", LINEAR: "18.43%"}


def bnn(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `bnn`, at least one."""
    members = fullest(runs)
    sweep = swept(members)
    both = bool(under(sweep, BACKPROP) and under(sweep, LINEAR))
    return Section(
        id="bnn",
        title="Binarized ResNet-18 with hard tanh: Precision@5 error",
        asked="Which rule on the hard tanh units of a binarized network is ahead after the same number of epochs? "
        "Weights and the inputs of layers are binarized with a straight-through of their own. The Precision@5 error "
        "is the share of test images whose class is not among the five with the largest outputs. " + scale(sweep),
        figures=(
            best_seeds_figure("Precision@5 error on the test set", members, "bnn-top5", metric="top5_error"),
            *layers_figures("", sweep),
        )
        if both
        else (),
        claims=(_lower(members),) if both else (),
        table=_table(members),
        rerun=rerun("bnn", sweep),
    )


def _lower(runs: Sequence[Run]) -> Claim:
    compared = comparisons(runs, "top5_error")
    return Claim(
        claim="Linear Backprop's best Precision@5 error is lower than Backprop's.",
        paper="“the best Precision@5 validation error we find using Backprop is 28.11% whereas using Linear Backprop "
        "the best Precision@5 validation error is 18.43%” (section 1.2)",
        measured="; ".join(each.measured for each in compared),
        verdict=by_direction([outcome for each in compared for outcome in each.outcomes]),
        key=" and ".join(
            f"{each.seeds[1].described()} against {each.seeds[0].described()} ({each.protocol.replace('_', ' ')})"
            for each in compared
        ),
        how=f"holds where Backprop's error is above Linear Backprop's by more than {SIGNIFICANT} standard errors of "
        "the difference by both ways of choosing, for the sweep's seed and in the mean over seeds; partly where in "
        "some; no difference seen where neither's is lower anywhere",
    )


def _table(runs: Sequence[Run]) -> Table:
    """The paper's own: the best Precision@5 error of each rule, beside ours."""
    rows = [
        (rule_name(rule), paper, *(cell for protocol in CHOSEN for cell in _cells(runs, rule, protocol)))
        for rule, paper in _PAPER.items()
        if under(runs, rule)
    ]
    chosen = (head for words in CHOSEN.values() for head in (f"here, chosen {words}", "over seeds"))
    return Table(("best Precision@5 error", "the paper", *chosen), tuple(rows))


def _cells(runs: Sequence[Run], rule: str, protocol: Protocol) -> tuple[str, str]:
    """The sweep's best, and the seeds at its setting."""
    members = under(runs, rule)
    best = choose(swept(members), protocol, "top5_error")
    return described(best, digits=2), seeds_at_the_best(members, protocol, "top5_error").described()
