"""The section on the paper's sentence that the learning rule is a regularization term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, label_ends, panels, to_svg

from .table import ACTIVATIONS, BACKPROP, Row, by_activation, largest, rows

_ROUNDING = 1e-9
"""Above it a Jacobian is not symmetric: a hundred thousand times what rounding leaves of Backprop's."""
_AGREE = 1e-6
_NEARLY = 0.01
_STYLES = {"tanh": ORANGE, "sigmoid": BLUE, "softplus": GREEN, "silu": PURPLE, "relu": GREY}


def regularizer(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `regularizer`, at least one."""
    table = rows(runs)
    config = runs[0].config
    shape = f"{config['inputs']}-{config['units']}-...-{config['outputs']}"
    linear = bool(by_activation(table, lambda row: True))
    return Section(
        id="regularizer",
        title="A regularization term: is the update a gradient at all?",
        asked="The paper offers another way to think of its rule: a regularization term. If there were one, the update "
        "would be the gradient of some function of the parameters, and its Jacobian with respect to them symmetric. "
        f"Here that Jacobian is computed exactly, in float64, for MLPs {shape} of up to "
        f"{max(row.hidden_layers for row in table)} hidden layers on {config['points']} points, squared error; as a "
        "check, by finite differences too. The measure is the norm of its antisymmetric part over the symmetric "
        "part's: 0 for a gradient, and 1 where both are as large.",
        figures=(_by_scale(table), _along_training(table)) if linear else (),
        claims=(_is_a_term(table), _nearly(table)) if linear else (),
        table=Table.of(_rows(table)),
        rerun="linear-backprop reproduce regularizer",
        finding=_finding(table) if linear else "",
    )


def _finding(table: Sequence[Row]) -> str:
    found = by_activation(table, lambda row: row.scale == 1 and row.step == 0)
    least = min(row.asymmetry.min() for each in found.values() for row in each)
    if least <= _ROUNDING:
        return ""
    smallest = min(row.scale for row in table)
    small = by_activation(table, lambda row: row.scale == smallest and row.step == 0)
    nearly = [ACTIVATIONS[name] for name, each in small.items() if largest(each, _rescaled) <= _NEARLY]
    return (
        "No regularization term explains the rule: the Jacobian of its update is not symmetric, as any gradient's is. "
        f"The antisymmetric part is {least:.2f} to {max(largest(each, _asymmetry) for each in found.values()):.2f} of "
        "the symmetric one on small MLPs. "
        + (
            f"With weights {smallest:g} times as large it is nearly a gradient, each layer at a rate of its own, with "
            f"{', '.join(nearly)}."
            if nearly
            else ""
        )
    )


def _by_scale(table: Sequence[Row]) -> Figure:
    depth = max(row.hidden_layers for row in table)
    titles = ("as it is", "layers rescaled")
    found = by_activation(table, lambda row: row.hidden_layers == depth and row.step == 0)
    with panels(titles, height=2.9) as drawn:
        for panel, measure in zip(drawn, (_asymmetry, _rescaled), strict=True):
            _lines(panel, found, lambda row: row.scale, measure)
            panel.set_xscale("log")
        drawn[-1].set_xlabel("scale of the initial weights (1: PyTorch's own)")
        svg = to_svg(drawn[0], salt="regularizer-scale")
    return Figure(
        "With small weights and layers rescaled it is nearly a gradient, but for ReLU's",
        f"Linear Backprop, {depth} hidden layers, before training: antisymmetric part over symmetric part, median over "
        f"seeds. Small weights hold tanh at f' = 1 and the "
        "other smooth activations at some other constant slope, which rescales each layer's update (below: multiplied "
        "by the mean slopes of the activations above it); ReLU has no such regime.",
        svg,
    )


def _along_training(table: Sequence[Row]) -> Figure:
    depth = max(row.hidden_layers for row in table)
    found = by_activation(table, lambda row: row.hidden_layers == depth and row.scale == 1)
    with panels([""], height=2.9) as drawn:
        _lines(drawn[0], found, lambda row: row.step, _asymmetry)
        drawn[0].set_xscale("symlog", linthresh=10)
        drawn[0].set_xlim(left=0)
        drawn[0].set_xlabel("step of gradient descent by the update")
        svg = to_svg(drawn[0], salt="regularizer-steps")
    return Figure(
        "Training does not make it one",
        f"Linear Backprop, {depth} hidden layers, PyTorch's own initialisation: median over seeds.",
        svg,
    )


def _lines(
    panel: Axes,
    found: dict[str, list[Row]],
    x: Callable[[Row], float],
    measure: Callable[[Row], NDArray[np.float64]],
) -> None:
    """A line an activation, its median over seeds."""
    for name, each in found.items():
        ordered = sorted(each, key=x)
        medians = [float(np.median(measure(row))) if measure(row).size else np.nan for row in ordered]
        panel.plot(list(map(x, ordered)), medians, **_STYLES[name], label=ACTIVATIONS[name])
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(numticks=6))
    panel.set_ylabel("antisymmetric / symmetric")
    label_ends(panel)


def _is_a_term(table: Sequence[Row]) -> Claim:
    found = by_activation(table, lambda row: row.scale == 1 and row.step == 0)
    everywhere = by_activation(table, lambda row: True)
    backprop = largest([row for row in table if row.rule == BACKPROP], _asymmetry)
    differences = largest(table, lambda row: row.differences)
    return Claim(
        claim="Linear Backprop's update is the gradient of the loss and a regularization term.",
        paper="“Another way to think of our proposed learning rule is that we introduce a regularization term such "
        "that when gradients are computed, all the non-linear components are cancelled and only linear gradients "
        "persist.” (section 1)",
        measured="at PyTorch's initialisation "
        + ", ".join(f"{ACTIVATIONS[name]} {_span(each)}" for name, each in found.items())
        + f"; Backprop: at most {backprop:.0e} anywhere; finite differences agree to {differences:.0e}",
        verdict=all_or_some([largest(each, _asymmetry) <= _ROUNDING for each in everywhere.values()])
        if backprop <= _ROUNDING and differences <= _AGREE
        else "not decided",
        key=", ".join(f"{ACTIVATIONS[name]} {_span(each)}" for name, each in found.items()) + "; a gradient: 0",
        how=f"holds where the antisymmetric part is at most {_ROUNDING:g} of the symmetric part for every activation, "
        "at every depth, scale, seed and step; partly where for some activations. Decided where Backprop's, which is a "
        f"gradient, is within that and finite differences agree to {_AGREE:g}",
    )


def _nearly(table: Sequence[Row]) -> Claim:
    smallest = min(row.scale for row in table)
    found = by_activation(table, lambda row: row.scale == smallest and row.step == 0)
    worst = {name: largest(each, _rescaled) for name, each in found.items()}
    return Claim(
        claim="With small weights it is nearly the gradient of a function, each layer at a rate of its own.",
        paper="not in the paper; the sense in which its sentence is nearly true",
        measured=f"at {smallest:g} of PyTorch's initialisation at most "
        + ", ".join(f"{value:.1g} ({ACTIVATIONS[name]})" for name, value in worst.items()),
        verdict=all_or_some([value <= _NEARLY for value in worst.values()]),
        key=", ".join(f"{ACTIVATIONS[name]} {value:.0e}" for name, value in worst.items()),
        how=f"holds where the antisymmetric part is at most {_NEARLY:g} of the symmetric part at the smallest scale "
        "for every activation, depth and seed, each layer's update multiplied by the mean slopes of the activations "
        "above it; partly where for some activations",
    )


def _asymmetry(row: Row) -> NDArray[np.float64]:
    return row.asymmetry


def _rescaled(row: Row) -> NDArray[np.float64]:
    return row.rescaled


def _span(each: Sequence[Row]) -> str:
    values = np.concatenate([row.asymmetry for row in each])
    return f"{values.min():.2f} to {values.max():.2f}"


def _rows(table: Sequence[Row]) -> list[dict[str, str]]:
    """Medians over seeds, of Linear Backprop: a row an activation and depth."""
    depths = sorted({row.hidden_layers for row in table})
    return [_row(name, each, d) for name, each in by_activation(table, lambda row: True).items() for d in depths]


def _row(name: str, each: Sequence[Row], depth: int) -> dict[str, str]:
    lines = sorted((row for row in each if row.hidden_layers == depth), key=lambda row: (row.step, row.scale))
    first, last = lines[0], lines[-1]
    shown = {
        **{f"weights x {row.scale:g}": row.asymmetry for row in lines if row.step == 0},
        f"x 1, step {last.step:,}": last.asymmetry,
        f"x {first.scale:g}, layers rescaled": first.rescaled,
    }
    medians = {head: f"{np.median(values):.2g}" if values.size else "-" for head, values in shown.items()}
    return {"units": ACTIVATIONS[name], "hidden layers": str(depth), **medians}
