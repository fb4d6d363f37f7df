"""What the paper claims about figure 1, and the verdict the records give: every rule stated beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.report import Claim, Verdict, all_or_some, by_share
from linear_backprop_lab.report.names import BACKPROP, LINEAR, PRINTED, activation_name

from .runs import ACTIVATIONS
from .table import Ensemble, Ensembles, Ratio, ratio

_NEARLY_ALL, _SOME = 0.95, 0.5
_SIMILAR = 2.0
_MUCH_HIGHER = 2.0
_SIGNIFICANT = 0.01
_FEWEST = 5
_FEW = 2


def verdict(table: Ensembles) -> tuple[Claim, ...]:
    """Every claim of the paper about figure 1; "not decided" where a run it needs is missing."""
    return (
        _overfits(
            table,
            LINEAR,
            "Linear Backprop overfits the five training points.",
            "“The Linear Backprop also overfits on the training data” (section 1.1)",
        ),
        _overfits(
            table,
            PRINTED,
            "Algorithm 2 as it is printed, g ⊙ a, does so, too.",
            "“g ← g ⊙ a” (Algorithm 2, line 2 of the loop)",
        ),
        _generalises(table),
        _similarly(table),
        _much_higher(table),
        _other_layers(table),
        _rectified(table),
    )


def _overfits(table: Ensembles, rule: str, claim: str, paper: str) -> Claim:
    found = table.get(("relu", rule))
    others = [each for each in table.values() if each.rule == rule]
    return Claim(
        claim=claim,
        paper=paper,
        measured="; ".join(f"{activation_name(each.activation)}: {_arrival(each)}" for each in others) or "no record",
        verdict="not decided" if found is None else by_share(found.arrived.tolist(), _NEARLY_ALL, _SOME),
        key="" if found is None else f"{int(found.arrived.sum())} of {found.size} ReLU networks",
        how=f"of the ReLU networks, the paper's: holds where at least {_NEARLY_ALL:.0%} reach the training error; "
        f"partly where at least {_SOME:.0%} do",
    )


def _arrival(each: Ensemble) -> str:
    count = int(each.arrived.sum())
    config = each.run.config
    steps = f", median step {np.median(each.steps[each.arrived]):.0f}" if count else ""
    return f"{count} of {each.size} reach {config['tolerance']:g} within {config['max_steps']:,} steps{steps}"


def _generalises(table: Ensembles) -> Claim:
    found = table.get(("relu", LINEAR))
    below = None if found is None else found.test_mse < found.constant_mse
    return Claim(
        claim="A network overfitted with Linear Backprop generalises to unseen points.",
        paper="“Our results suggest that Linear Backprop also generalizes.” (caption of figure 1)",
        measured="no record"
        if found is None or below is None
        else f"ReLU: {below.sum()} of {found.size} networks are nearer to the cubic than the best constant, whose "
        f"error is {found.constant_mse:.2f}; median {np.median(found.test_mse):.2f}",
        verdict="not decided" if below is None else by_share(below.tolist(), _NEARLY_ALL, _SOME),
        key="" if below is None else f"{below.sum()} of {len(below)} ReLU networks",
        how=f"holds where at least {_NEARLY_ALL:.0%} of the ReLU networks have a lower test error than the best "
        f"constant; partly where at least {_SOME:.0%} do",
    )


def _similarly(table: Ensembles) -> Claim:
    pairs = {activation: pair for activation in ACTIVATIONS for pair in _pair(table, activation)}
    ratios = {name: ratio(linear.test_mse, exact.test_mse) for name, (linear, exact) in pairs.items()}
    return Claim(
        claim="Over many initialisations Linear Backprop generalises as Backprop does.",
        paper="“has similar generalization when trained with Backprop” (section 1.1)",
        measured="; ".join(
            f"{activation_name(name)}: median {np.median(linear.test_mse):.2g} against "
            f"{np.median(exact.test_mse):.2g}, {ratios[name]}, n = {linear.size}"
            for name, (linear, exact) in pairs.items()
        )
        or "no record",
        verdict=_by_factor(ratios["relu"]) if "relu" in ratios else "not decided",
        key=f"{ratios['relu'].value:.2g} times Backprop's test error, ReLU" if "relu" in ratios else "",
        how=f"similar means within a factor of {_SIMILAR:g}: holds where the 95% bootstrap interval of the ratio of "
        f"median test errors, ReLU, lies within 1/{_SIMILAR:g} to {_SIMILAR:g}; does not hold where it lies outside; "
        "partly where it straddles",
    )


def _by_factor(interval: Ratio) -> Verdict:
    if 1 / _SIMILAR <= interval.low and interval.high <= _SIMILAR:
        return "holds"
    return "does not hold" if interval.low > _SIMILAR or interval.high < 1 / _SIMILAR else "partly"


def _much_higher(table: Ensembles) -> Claim:
    return _units_claim(
        table,
        [(activation, None) for activation in ("tanh", "sigmoid")],
        "After training with sigmoidal units, pre-activations are much higher under Linear Backprop.",
        "“Since Linear Backprop still manages to learn with saturated regions, unit activations are much higher.” "
        "(caption of figure 1)",
        "with tanh and with sigmoid; partly where with one",
    )


def _other_layers(table: Ensembles) -> Claim:
    cases = [(each.activation, k) for each in table.values() for k in range(each.mean_abs.shape[1])]
    sigmoidal = [case for case in dict.fromkeys(cases) if case[0] in ("tanh", "sigmoid")]
    return _units_claim(
        table,
        sigmoidal,
        "Pre-activations are much higher under Linear Backprop in every hidden layer.",
        "“Similar results hold for different layers ...” (caption of figure 1)",
        "at every hidden layer with both; partly where at some",
    )


def _rectified(table: Ensembles) -> Claim:
    return _units_claim(
        table,
        [("relu", None)],
        "Pre-activations are much higher under Linear Backprop with ReLU, too.",
        "“Similar results hold for different layers and ReLU activation functions.” (caption of figure 1)",
        "with ReLU",
    )


def _units_claim(
    table: Ensembles, cases: Sequence[tuple[str, int | None]], claim: str, paper: str, where: str
) -> Claim:
    compared = [_Compared(*pair, layer) for activation, layer in cases for pair in _pair(table, activation)]
    outcomes = [each.is_much_higher for each in compared]
    return Claim(
        claim=claim,
        paper=paper,
        measured="; ".join(each.measured for each in compared) or "no record",
        verdict=all_or_some(outcomes),
        key="; ".join(f"{each.ratio.value:.2g} times, {each.activation}" for each in compared if each.ratio)
        if len(compared) <= _FEW
        else f"in {sum(outcomes)} of {len(outcomes)} layers",
        how=f"holds where, among the networks that reached the training error, at least {_FEWEST} under each rule, "
        f"the median of mean |a| is at least {_MUCH_HIGHER:g} times Backprop's and a two-sided Mann-Whitney test has "
        f"p < {_SIGNIFICANT:g}, {where}",
    )


@dataclass(frozen=True)
class _Compared:
    """The magnitudes of pre-activations under both rules, in a layer or, with None, over all."""

    linear: Ensemble
    exact: Ensemble
    layer: int | None

    @cached_property
    def arrived(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean |a| of the networks that reached the training error, Linear Backprop's and Backprop's."""
        linear, exact = (_mean_abs(each, self.layer)[each.arrived] for each in (self.linear, self.exact))
        return linear, exact

    @cached_property
    def ratio(self) -> Ratio | None:
        """How many times Backprop's; None where too few networks arrived to tell."""
        return ratio(*self.arrived) if min(map(len, self.arrived)) >= _FEWEST else None

    @property
    def is_much_higher(self) -> bool:
        return self.ratio is not None and self.ratio.value >= _MUCH_HIGHER and self.ratio.p < _SIGNIFICANT

    @property
    def activation(self) -> str:
        return activation_name(self.linear.activation)

    @property
    def measured(self) -> str:
        first, second = self.arrived
        name = self.activation + ("" if self.layer is None else f" layer {self.layer + 1}")
        if self.ratio is None:
            return (
                f"{name}: {len(first)} networks arrived under Linear Backprop and {len(second)} under Backprop, too "
                f"few to compare (all {self.linear.size}, arrived or not: "
                f"{np.median(_mean_abs(self.linear, self.layer)):.2g} against "
                f"{np.median(_mean_abs(self.exact, self.layer)):.2g})"
            )
        return (
            f"{name}: {np.median(first):.2g} (n = {len(first)}) against {np.median(second):.2g} (n = {len(second)}), "
            f"{self.ratio}"
        )


def _mean_abs(each: Ensemble, layer: int | None) -> NDArray[np.float64]:
    return each.mean_abs.mean(axis=1) if layer is None else each.mean_abs[:, layer]


def _pair(table: Ensembles, activation: str) -> list[tuple[Ensemble, Ensemble]]:
    """Linear Backprop's networks and Backprop's; empty where one is missing."""
    linear, exact = table.get((activation, LINEAR)), table.get((activation, BACKPROP))
    return [] if linear is None or exact is None else [(linear, exact)]
