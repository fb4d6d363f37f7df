"""The section on figure 1: five points of a cubic, overfitted under each rule from fifty initialisations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Section, Table
from linear_backprop_lab.report.names import activation_name, rule_name

from .claims import verdict
from .drawings import figures
from .table import Ensemble, ensembles


def figure1(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `fig1`, at least one.

    Runs are compared that differ in activation and rule alone; where there are several such sets, the one
    with the most networks.
    """
    table = ensembles(runs)
    return Section(
        id="fig1",
        title="Figure 1: overfitting five points",
        asked=_asked(next(iter(table.values()))),
        figures=figures(table),
        claims=verdict(table),
        table=Table.of(list(map(_row, table.values()))),
        rerun="linear-backprop reproduce fig1",
    )


def _asked(each: Ensemble) -> str:
    config = each.run.config
    shape = " x ".join(map(str, config["widths"]))
    return (
        "Does a network that is far too large for five noisy points of a cubic still find the cubic when it is "
        f"trained with Linear Backprop, and what do its units hold then? {each.size} initialisations of an MLP "
        f"({shape}) are trained with Adam, learning rate {config['learning_rate']:g}, on the full batch, each "
        f"until its training error is at most {config['tolerance']:g} or {config['max_steps']:,} steps are done; "
        "all rules start from the same weights. A network that does not arrive is kept as it is at the last step."
    )


def _row(each: Ensemble) -> dict[str, str]:
    record = each.run.record
    low, median, high = np.percentile(each.test_mse, (25, 50, 75))
    layers = enumerate(np.median(each.mean_abs, axis=0), start=1)
    return {
        "units": activation_name(each.activation),
        "rule": rule_name(each.rule),
        "arrived": f"{record['arrived']} of {each.size}",
        "diverged": str(record["diverged"]),
        "median steps": f"{np.median(each.steps):,.0f}",
        "median test MSE (quartiles)": f"{median:.2g} ({low:.2g} to {high:.2g})",
        **{f"mean |a|, layer {k}": f"{value:.2g}" for k, value in layers},
        "time": f"{record['seconds']:.1f} s",
    }
