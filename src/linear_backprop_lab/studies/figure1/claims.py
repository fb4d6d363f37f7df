"""What the paper claims about figure 1, and the verdict the records give: every rule stated beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.report import Claim, Verdict, all_or_some

from .table import ACTIVATION_NAMES, Ensemble, Ensembles, Ratio, ratio

_BACKPROP, _LINEAR, _PRINTED = "Exact()", "Linear()", "PreActivation()"
_NEARLY_ALL, _SOME = 0.95, 0.5
_SIMILAR = 2.0
_MUCH_HIGHER = 2.0
_SIGNIFICANT = 0.01
_FEWEST = 5


def verdict(table: Ensembles) -> tuple[Claim, ...]:
    """Every claim of the paper about figure 1; "not decided" where a run it needs is missing."""
    return (
        _overfits(
            table,
            _LINEAR,
            "Linear Backprop overfits the five training points.",
            "“The Linear Backprop also overfits on the training data” (section 1.1)",
        ),
        _overfits(
            table,
            _PRINTED,
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
        measured="; ".join(f"{_name(each)}: {_arrival(each)}" for each in others) or "no record",
        verdict="not decided" if found is None else _by_share(found.arrived),
        key="" if found is None else f"{int(found.arrived.sum())} of {found.size} ReLU networks",
        how=f"of the ReLU networks, the paper's: holds where at least {_NEARLY_ALL:.0%} reach the training error; "
        f"partly where at least {_SOME:.0%} do",
    )


def _arrival(each: Ensemble) -> str:
    count = int(each.arrived.sum())
    config = each.run.config
    steps = f", median step {np.median(each.steps[each.arrived]):.0f}" if count else ""
    return f"{count} of {each.size} reach {config['tolerance']:g} within {config['max_steps']:,} steps{steps}"


def _by_share(outcomes: NDArray[np.bool_]) -> Verdict:
    share = outcomes.mean()
    if share >= _NEARLY_ALL:
        return "holds"
    return "partly" if share >= _SOME else "does not hold"


def _generalises(table: Ensembles) -> Claim:
    found = table.get(("relu", _LINEAR))
    below = None if found is None else found.test_mse < found.constant_mse
    return Claim(
        claim="A network overfitted with Linear Backprop generalises to unseen points.",
        paper="“Our results suggest that Linear Backprop also generalizes.” (caption of figure 1)",
        measured="no record"
        if found is None or below is None
        else f"ReLU: {below.sum()} of {found.size} networks are nearer to the cubic than the best constant, whose "
        f"error is {found.constant_mse:.2f}; median {np.median(found.test_mse):.2f}",
        verdict="not decided" if below is None else _by_share(below),
        key="" if below is None else f"{below.sum()} of {len(below)} ReLU networks",
        how=f"holds where at least {_NEARLY_ALL:.0%} of the ReLU networks have a lower test error than the best "
        f"constant; partly where at least {_SOME:.0%} do",
    )


def _similarly(table: Ensembles) -> Claim:
    pairs = {activation: pair for activation in ACTIVATION_NAMES for pair in _pair(table, activation)}
    ratios = {name: ratio(linear.test_mse, exact.test_mse) for name, (linear, exact) in pairs.items()}
    return Claim(
        claim="Over many initialisations Linear Backprop generalises as Backprop does.",
        paper="“has similar generalization when trained with Backprop” (section 1.1)",
        measured="; ".join(
            f"{ACTIVATION_NAMES[name]}: median {np.median(linear.test_mse):.2g} against "
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
    compared = [(case, *pair) for case in cases for pair in _pair(table, case[0])]
    outcomes = [_is_much_higher(linear, exact, layer) for (_, layer), linear, exact in compared]
    return Claim(
        claim=claim,
        paper=paper,
        measured="; ".join(_magnitude(linear, exact, layer) for (_, layer), linear, exact in compared) or "no record",
        verdict=all_or_some(outcomes),
        key=_ratios(compared)
        if len(compared) < len(ACTIVATION_NAMES)
        else f"in {sum(outcomes)} of {len(outcomes)} layers",
        how=f"holds where, among the networks that reached the training error, at least {_FEWEST} under each rule, "
        f"the median of mean |a| is at least {_MUCH_HIGHER:g} times Backprop's and a two-sided Mann-Whitney test has "
        f"p < {_SIGNIFICANT:g}, {where}",
    )


def _ratios(compared: Sequence[tuple[tuple[str, int | None], Ensemble, Ensemble]]) -> str:
    """How many times Backprop's, where enough networks arrived to tell."""
    enough = [
        (ACTIVATION_NAMES[name], first, second)
        for (name, layer), linear, exact in compared
        for first, second in [(_arrived_mean_abs(linear, layer), _arrived_mean_abs(exact, layer))]
        if min(len(first), len(second)) >= _FEWEST
    ]
    return "; ".join(f"{ratio(first, second).value:.2g} times, {name}" for name, first, second in enough)


def _is_much_higher(linear: Ensemble, exact: Ensemble, layer: int | None) -> bool:
    first, second = _arrived_mean_abs(linear, layer), _arrived_mean_abs(exact, layer)
    if min(len(first), len(second)) < _FEWEST:
        return False
    compared = ratio(first, second)
    return compared.value >= _MUCH_HIGHER and compared.p < _SIGNIFICANT


def _magnitude(linear: Ensemble, exact: Ensemble, layer: int | None) -> str:
    first, second = _arrived_mean_abs(linear, layer), _arrived_mean_abs(exact, layer)
    name = ACTIVATION_NAMES[linear.activation] + ("" if layer is None else f" layer {layer + 1}")
    if min(len(first), len(second)) < _FEWEST:
        return (
            f"{name}: {len(first)} networks arrived under Linear Backprop and {len(second)} under Backprop, too few "
            f"to compare (all {linear.size}, arrived or not: {np.median(_mean_abs(linear, layer)):.2g} against "
            f"{np.median(_mean_abs(exact, layer)):.2g})"
        )
    return (
        f"{name}: {np.median(first):.2g} (n = {len(first)}) against {np.median(second):.2g} (n = {len(second)}), "
        f"{ratio(first, second)}"
    )


def _arrived_mean_abs(each: Ensemble, layer: int | None) -> NDArray[np.float64]:
    return _mean_abs(each, layer)[each.arrived]


def _mean_abs(each: Ensemble, layer: int | None) -> NDArray[np.float64]:
    return each.mean_abs.mean(axis=1) if layer is None else each.mean_abs[:, layer]


def _pair(table: Ensembles, activation: str) -> list[tuple[Ensemble, Ensemble]]:
    """Linear Backprop's networks and Backprop's; empty where one is missing."""
    linear, exact = table.get((activation, _LINEAR)), table.get((activation, _BACKPROP))
    return [] if linear is None or exact is None else [(linear, exact)]


def _name(each: Ensemble) -> str:
    return ACTIVATION_NAMES.get(each.activation, each.activation)
