"""The records of the study `regularizer` as one table: how far from a gradient the update is, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.records import Run
from linear_backprop_lab.report.names import LINEAR
from linear_backprop_lab.studies._alike import alike

from .runs import ACTIVATIONS


@dataclass(frozen=True)
class Row:
    """One depth, scale of the weights and time in training; arrays have a value a seed, those that diverged left out.

    Attributes:
        activation: The activation's name in PyTorch.
        rule: The rule's repr.
        hidden_layers: How many.
        scale: Of the initial weights, times PyTorch's own.
        step: Of training.
        asymmetry: The antisymmetric part of the update's Jacobian over the symmetric one.
        rescaled: The same after multiplying each layer's update by the mean slopes above it.
        differences: How far finite differences are from the Jacobian.
    """

    activation: str
    rule: str
    hidden_layers: int
    scale: float
    step: int
    asymmetry: NDArray[np.float64]
    rescaled: NDArray[np.float64]
    differences: NDArray[np.float64]


def rows(runs: Sequence[Run]) -> list[Row]:
    """Every line of the runs that differ in activation and rule alone; of several such sets the one of most seeds."""
    groups = alike(runs, "activation", "rule")
    fullest = max(groups, key=lambda group: (len(group[0].config["seeds"]), len(group)))
    fullest.sort(key=lambda run: (ACTIVATIONS.index(run.config["activation"]), run.config["rule"]))
    return [_row(run, line) for run in fullest for line in run.metrics]


def _row(run: Run, line: dict[str, Any]) -> Row:
    names = ("asymmetry", "rescaled", "differences")
    measured = {name: np.array([value for value in line[name] if value is not None]) for name in names}
    return Row(
        activation=run.config["activation"],
        rule=run.config["rule"],
        hidden_layers=line["hidden_layers"],
        scale=line["scale"],
        step=line["step"],
        **measured,
    )


def largest(measured: Iterable[NDArray[np.float64]]) -> float:
    """The largest value; infinite where there is none."""
    return max((value for values in measured for value in values.tolist()), default=math.inf)


def by_activation(table: Sequence[Row], **where: float) -> dict[str, list[Row]]:
    """The rows under Linear Backprop with those values of their attributes, of every activation that has some."""
    wanted = {"rule": LINEAR, **where}
    chosen = [row for row in table if all(getattr(row, name) == value for name, value in wanted.items())]
    return {name: found for name in ACTIVATIONS if (found := [row for row in chosen if row.activation == name])}
