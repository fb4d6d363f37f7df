"""The section on the paper's sentence that the learning rule is a regularization term."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, label_ends, panels, to_svg
from linear_backprop_lab.report.names import BACKPROP, activation_name

from .table import Row, by_activation, largest, rows

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
    linear = bool(by_activation(table))
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
    found = [row.asymmetry for each in by_activation(table, scale=1, step=0).values() for row in each]
    least = min(values.min() for values in found)
    if least <= _ROUNDING:
        return ""
    smallest, worst = _worst_of_small_weights(table)
    nearly = [name for name, value in worst.items() if value <= _NEARLY]
    return (
        "No regularization term explains the rule: the Jacobian of its update is not symmetric, as any gradient's is. "
        f"The antisymmetric part is {least:.2f} to {largest(found):.2f} of "
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
    found = by_activation(table, hidden_layers=depth, step=0)
    with panels(titles, height=2.9) as drawn:
        for panel, measure in zip(drawn, ("asymmetry", "rescaled"), strict=True):
            _lines(panel, found, "scale", measure)
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
    found = by_activation(table, hidden_layers=depth, scale=1)
    with panels([""], height=2.9) as drawn:
        _lines(drawn[0], found, "step", "asymmetry")
        drawn[0].set_xscale("symlog", linthresh=10)
        drawn[0].set_xlim(left=0)
        drawn[0].set_xlabel("step of gradient descent by the update")
        svg = to_svg(drawn[0], salt="regularizer-steps")
    return Figure(
        "Training does not make it one",
        f"Linear Backprop, {depth} hidden layers, PyTorch's own initialisation: median over seeds.",
        svg,
    )


def _lines(panel: Axes, found: dict[str, list[Row]], x: str, measure: str) -> None:
    """A line an activation, its median over seeds, of two attributes of its rows."""
    for name, each in found.items():
        ordered = sorted(each, key=attrgetter(x))
        measured = [getattr(row, measure) for row in ordered]
        medians = [np.median(values) if values.size else np.nan for values in measured]
        panel.plot([getattr(row, x) for row in ordered], medians, **_STYLES[name], label=activation_name(name))
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(numticks=6))
    panel.set_ylabel("antisymmetric / symmetric")
    label_ends(panel)


def _is_a_term(table: Sequence[Row]) -> Claim:
    found = by_activation(table, scale=1, step=0)
    spans = ", ".join(f"{activation_name(name)} {_span(each)}" for name, each in found.items())
    everywhere = [largest(row.asymmetry for row in each) for each in by_activation(table).values()]
    backprop = largest(row.asymmetry for row in table if row.rule == BACKPROP)
    differences = largest(row.differences for row in table)
    return Claim(
        claim="Linear Backprop's update is the gradient of the loss and a regularization term.",
        paper="“Another way to think of our proposed learning rule is that we introduce a regularization term such "
        "that when gradients are computed, all the non-linear components are cancelled and only linear gradients "
        "persist.” (section 1)",
        measured=f"at PyTorch's initialisation {spans}; Backprop: at most {backprop:.0e} anywhere; finite differences "
        f"agree to {differences:.0e}",
        verdict=all_or_some([value <= _ROUNDING for value in everywhere])
        if backprop <= _ROUNDING and differences <= _AGREE
        else "not decided",
        key=f"{spans}; a gradient: 0",
        how=f"holds where the antisymmetric part is at most {_ROUNDING:g} of the symmetric part for every activation, "
        "at every depth, scale, seed and step; partly where for some activations. Decided where Backprop's, which is a "
        f"gradient, is within that and finite differences agree to {_AGREE:g}",
    )


def _nearly(table: Sequence[Row]) -> Claim:
    smallest, worst = _worst_of_small_weights(table)
    return Claim(
        claim="With small weights it is nearly the gradient of a function, each layer at a rate of its own.",
        paper="not in the paper; the sense in which its sentence is nearly true",
        measured=f"at {smallest:g} of PyTorch's initialisation at most "
        + ", ".join(f"{value:.1g} ({name})" for name, value in worst.items()),
        verdict=all_or_some([value <= _NEARLY for value in worst.values()]),
        key=", ".join(f"{name} {value:.0e}" for name, value in worst.items()),
        how=f"holds where the antisymmetric part is at most {_NEARLY:g} of the symmetric part at the smallest scale "
        "for every activation, depth and seed, each layer's update multiplied by the mean slopes of the activations "
        "above it; partly where for some activations",
    )


def _worst_of_small_weights(table: Sequence[Row]) -> tuple[float, dict[str, float]]:
    """The smallest scale, and the largest asymmetry there of each activation, by name, layers rescaled."""
    smallest = min(row.scale for row in table)
    found = by_activation(table, scale=smallest, step=0)
    return smallest, {activation_name(name): largest(row.rescaled for row in each) for name, each in found.items()}


def _span(each: Sequence[Row]) -> str:
    values = np.concatenate([row.asymmetry for row in each])
    return f"{values.min():.2f} to {values.max():.2f}"


def _rows(table: Sequence[Row]) -> list[dict[str, str]]:
    """Medians over seeds, of Linear Backprop: a row an activation and depth."""
    depths = sorted({row.hidden_layers for row in table})
    return [_row(name, each, depth) for name, each in by_activation(table).items() for depth in depths]


def _row(name: str, each: Sequence[Row], depth: int) -> dict[str, str]:
    lines = sorted((row for row in each if row.hidden_layers == depth), key=lambda row: (row.step, row.scale))
    first, last = lines[0], lines[-1]
    shown = {
        **{f"weights x {row.scale:g}": row.asymmetry for row in lines if row.step == 0},
        f"x 1, step {last.step:,}": last.asymmetry,
        f"x {first.scale:g}, layers rescaled": first.rescaled,
    }
    medians = {head: f"{np.median(values):.2g}" if values.size else "-" for head, values in shown.items()}
    return {"units": activation_name(name), "hidden layers": str(depth), **medians}
