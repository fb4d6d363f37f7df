"""Figure 1's records as small tables: what each rule made of the same initialisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._alike import alike

from .runs import ACTIVATIONS, RULES

_RESAMPLES = 5000


@dataclass(frozen=True)
class Ensemble:
    """The N networks of one run, read from its record when asked."""

    run: Run

    @property
    def activation(self) -> str:
        """The activation's name in PyTorch."""
        return self.run.config["activation"]

    @property
    def rule(self) -> str:
        """The rule's repr."""
        return self.run.config["rule"]

    @property
    def size(self) -> int:
        """N."""
        return len(self.run.config["seeds"])

    @cached_property
    def arrived(self) -> NDArray[np.bool_]:
        """Which networks reached the tolerance, (N,)."""
        return self._networks["status"] == "arrived"

    @cached_property
    def test_mse(self) -> NDArray[np.float64]:
        """The error against the curve without noise, (N,); infinite where a network diverged."""
        return _finite_or_infinite(self._networks["test_mse"])

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The steps each network took, (N,)."""
        return self._networks["steps"]

    @cached_property
    def mean_abs(self) -> NDArray[np.float64]:
        """Mean |a| on the training points, (N, hidden layers); infinite where a network diverged."""
        return _finite_or_infinite(self.run.arrays("points")["pre_activations_mean_abs"])

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """The curves, the points and the target: the arrays of `predictions.npz`."""
        return self.run.arrays("predictions")

    @cached_property
    def histograms(self) -> dict[str, NDArray[Any]]:
        """Counts and edges on the 201 points: the arrays of `grid.npz`."""
        return self.run.arrays("grid")

    @property
    def constant_mse(self) -> float:
        """The test error of the best constant: the variance of the target over the test points."""
        return float(self.predictions["test_targets"].var())

    @cached_property
    def _networks(self) -> dict[str, NDArray[Any]]:
        return self.run.arrays("networks")


Ensembles = dict[tuple[str, str], Ensemble]


def ensembles(runs: Sequence[Run]) -> Ensembles:
    """By (activation, rule), in the order they are shown in; runs that differ in nothing else.

    Where runs of several settings are given, those with the most networks count, then those with the
    most steps allowed: the fullest record, not the first.
    """
    groups = alike(runs, "activation", "rule")
    fullest = max(groups, key=lambda g: (len(g[0].config["seeds"]), g[0].config["max_steps"], len(g)))
    found = {(run.config["activation"], run.config["rule"]): Ensemble(run) for run in fullest}
    return dict(sorted(found.items(), key=lambda item: _order(*item[0])))


def _order(activation: str, rule: str) -> tuple[int, str, int, str]:
    return *_place(activation, list(ACTIVATIONS)), *_place(rule, list(map(repr, RULES)))


def _place(name: str, known: Sequence[str]) -> tuple[int, str]:
    """What is not known comes last."""
    return known.index(name) if name in known else len(known), name


@dataclass(frozen=True)
class Ratio:
    """How a quantity compares under two rules: the ratio of the medians of two samples.

    Attributes:
        value: median(first) / median(second).
        low: The lower end of the 95% percentile bootstrap interval.
        high: The upper end.
        p: Of the two-sided Mann-Whitney test that neither sample tends to be the larger.
    """

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.value:.2g} times (95% {self.low:.2g} to {self.high:.2g}, p = {self.p:.1g})"


def ratio(first: NDArray[np.float64], second: NDArray[np.float64]) -> Ratio:
    """Compare two samples of positive numbers, each of at least two."""
    # Imported here because it takes a second, and most of what the command line does goes without.
    from scipy import stats

    interval = stats.bootstrap(
        (first, second), _ratio_of_medians, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    test = stats.mannwhitneyu(first, second)
    value = float(_ratio_of_medians(first, second))
    return Ratio(value, float(interval.low), float(interval.high), float(test.pvalue))


def _ratio_of_medians(first: NDArray[Any], second: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    return np.median(first, axis=axis) / np.median(second, axis=axis)


def _finite_or_infinite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(np.isnan(values), np.inf, values).astype(np.float64)
