"""What sections on images claim alike: that Linear Backprop learns, that it is ahead early, and at the end."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, all_or_some, by_direction, by_share
from linear_backprop_lab.report.names import BACKPROP, LINEAR

from .choices import CHOSEN, beats, both_chosen, comparisons, described, finished, key_numbers
from .selection import Choice, Protocol, choose
from .settings import SIGNIFICANT, Networks, chance, first_loss, is_above_chance, learning_rate, penalty, under

MOST, SOME = 0.75, 0.5
"""The shares, of settings or epochs, at which what holds there holds, and holds partly."""

_AHEAD_IN_THE_PAPER = (
    "“Unlike Backprop with tanh shown in Figure 2, Backprop with ReLU is able to match learning with tanh and Linear "
    "Backprop.” (appendix A)"
)
_FEW = 2


def learns(
    networks: Networks,
    claim: str = "With Linear Backprop a deep network of tanh units learns.",
    protocol: Protocol = "held_out",
) -> Claim:
    """Whether Linear Backprop's best run of a sweep is above chance, in every network."""
    found = {name: finished(under(runs, LINEAR)) for name, runs in networks.items()}
    best = {name: choose(runs, protocol) if runs else None for name, runs in found.items()}
    outcomes = [each is not None and is_above_chance(each.run, each.value) for each in best.values()]
    return Claim(
        claim=claim,
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue learning.” "
        "(section 1.2)",
        measured="; ".join(
            f"{name}: {described(each)}, chance {chance(each.run):.0%}" if each else f"{name}: every run diverged"
            for name, each in best.items()
        ),
        verdict=all_or_some(outcomes),
        key="; ".join(f"{each.value:.1%}, {name}" for name, each in best.items() if each)
        if len(best) <= _FEW
        else f"in {sum(outcomes)} of {len(outcomes)} networks and choices",
        how=f"of the runs that did not diverge; holds where the test accuracy, chosen {CHOSEN[protocol]}, is above "
        f"chance by more than {SIGNIFICANT} standard errors of the test set everywhere; partly where in some",
    )


def ahead(networks: Networks, *, claim: str, paper: str = _AHEAD_IN_THE_PAPER) -> Claim:
    """Whether Linear Backprop is ahead, each rule at its best setting, by both protocols and over seeds.

    Args:
        networks: The runs of a sweep, and those with further seeds.
        claim: In one sentence.
        paper: The paper's words.
    """
    compared = [(name, each) for name, runs in networks.items() for each in comparisons(runs)]
    return Claim(
        claim=claim,
        paper=paper,
        measured="; ".join(f"{name}, {each.measured}" for name, each in compared),
        verdict=by_direction([outcome for _, each in compared for outcome in each.outcomes]),
        key=key_numbers(compared),
        how=f"holds where Linear Backprop's test accuracy is above Backprop's by more than {SIGNIFICANT} standard "
        "errors of the difference, with and without batch normalization, by both ways of choosing, for the sweep's "
        "seed and in the mean over seeds; partly where in some; no difference seen where neither is ahead anywhere",
    )


def ahead_once(networks: Networks, protocol: Protocol = "held_out") -> Claim:
    """The same of a sweep without further seeds, by one protocol."""
    pairs = {name: both_chosen(runs, protocol) for name, runs in networks.items()}
    outcomes = {name: beats(linear, backprop) for name, (backprop, linear) in pairs.items()}
    won, lost = (list(outcomes.values()).count(sign) for sign in (1, -1))
    return Claim(
        claim="With tanh, Linear Backprop is ahead of Backprop, each at its best setting.",
        paper=_AHEAD_IN_THE_PAPER,
        measured="; ".join(_against(name, *pair, outcomes[name]) for name, pair in pairs.items()),
        verdict=by_direction(list(outcomes.values())),
        key=f"in {won} of {len(pairs)}, Backprop in {lost}",
        how=f"Linear Backprop's against Backprop's; holds where its test accuracy, chosen {CHOSEN[protocol]}, is above "
        f"by more than {SIGNIFICANT} standard errors of the difference everywhere; partly where in some; one seed",
    )


def _against(name: str, backprop: Choice, linear: Choice, outcome: int) -> str:
    winner = {1: ", Linear Backprop is ahead", 0: "", -1: ", Backprop is ahead"}[outcome]
    return f"{name}: {linear.value:.1%} against {backprop.value:.1%}{winner}"


def early(networks: Networks) -> Claim:
    """Whether Linear Backprop's training loss is the lower after the first epoch, setting by setting."""
    found = {name: [first_loss(b) > first_loss(a) for b, a in _matched(runs)] for name, runs in networks.items()}
    every = [each for outcomes in found.values() for each in outcomes]
    return Claim(
        claim="Early in training Linear Backprop is ahead of Backprop.",
        paper="“In the early stages of learning, Linear Backprop in particular performs favorably compared with "
        "Backprop learning.” (appendix B)",
        measured="; ".join(f"{name}: at {sum(each)} of {len(each)} settings" for name, each in found.items()),
        verdict=by_share(every, MOST, SOME),
        key=f"at {sum(every)} of {len(every)} settings",
        how="at the same learning rate, penalty and initial weights; holds where the mean training loss of the first "
        f"epoch is lower under Linear Backprop at {MOST:.0%} of all settings at least, partly where at {SOME:.0%}; "
        "infinite where training diverged",
    )


def _matched(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Backprop's run and Linear Backprop's, at every setting that both were run at."""
    linear = {(learning_rate(run), penalty(run)): run for run in under(runs, LINEAR)}
    backprop = {(learning_rate(run), penalty(run)): run for run in under(runs, BACKPROP)}
    return [(backprop[each], linear[each]) for each in backprop if each in linear]
