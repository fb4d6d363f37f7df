"""The drawings of figure 1, from the tables of `table`: curves, test errors, units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from linear_backprop_lab.report import Figure
from linear_backprop_lab.report.drawing import GREY, RULE_STYLES, Style, legend_above, panels, to_svg
from linear_backprop_lab.report.names import activation_name, rule_name

from .table import Ensemble, Ensembles

_NEUTRAL = GREY["color"]
_BAND = (10, 90)


def figures(table: Ensembles) -> tuple[Figure, ...]:
    """Left, middle and right of the paper's figure 1; the right as three: a, h, and layer by layer."""
    any_ensemble = next(iter(table.values()))
    count, points = any_ensemble.size, len(any_ensemble.predictions["train_inputs"])
    grid = len(any_ensemble.predictions["test_inputs"])
    pooled = f"All hidden layers of all {count} networks, arrived or not, on {grid} points"
    return (
        Figure(
            "Left: the curves",
            f"Dots: the {points} training points. Grey: the cubic without noise. Line: the first initialisation. "
            f"Band: where the middle {_BAND[1] - _BAND[0]}% of all {count} lie.",
            _draw(table, "curves", _curves),
        ),
        Figure(
            "Middle: test error of every initialisation",
            f"A mark a network: its mean squared error against the cubic on {grid} points. Filled: it reached the "
            "training error asked for. Hollow: it did not. Bar: the median. Dashed: the best constant.",
            _draw(table, "errors", _errors),
        ),
        Figure(
            "Right: pre-activations after training",
            f"{pooled}. The scale is linear within 1 of zero and logarithmic beyond; ends hold what lies outside.",
            _draw(table, "pre-activations", _pre_activations),
        ),
        Figure(
            "Right: activations after training",
            f"{pooled}. Shares are logarithmic.",
            _draw(table, "activations", _activations),
        ),
        Figure(
            "Right, layer by layer",
            f"Mean |a| of each hidden layer on the {points} training points: the median network, and the "
            f"middle {_BAND[1] - _BAND[0]}% of {count}.",
            _draw(table, "layers", _layers),
        ),
    )


def _draw(table: Ensembles, name: str, draw: Callable[[Axes, list[Ensemble]], None]) -> str:
    """One panel an activation, and one legend above them."""
    activations = list(dict.fromkeys(activation for activation, _ in table))
    with panels(list(map(activation_name, activations))) as drawn:
        for panel, activation in zip(drawn, activations, strict=True):
            draw(panel, [each for each in table.values() if each.activation == activation])
        handles = {
            label: handle
            for panel in reversed(drawn)
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        legend_above(drawn[0], list(handles.values()))
        return to_svg(drawn[0], salt=f"figure1-{name}")


def _curves(panel: Axes, group: list[Ensemble]) -> None:
    data = group[0].predictions
    panel.plot(data["test_inputs"], data["test_targets"], color=_NEUTRAL, linewidth=3.5, alpha=0.6, label="target")
    for each in group:
        curves, color = each.predictions["predictions"], _style(each)["color"]
        line: Style = _style(each) | {"marker": ""}
        low, high = np.nanpercentile(curves, _BAND, axis=0)
        panel.fill_between(data["test_inputs"], low, high, color=color, alpha=0.18, linewidth=0)
        panel.plot(data["test_inputs"], curves[0], **line, label=rule_name(each.rule))
    panel.plot(
        data["train_inputs"],
        data["train_targets"],
        "o",
        color="#404040",
        markersize=6,
        label="5 points",
        zorder=9,
    )
    margin = np.ptp(data["test_targets"]) / 2
    panel.set_ylim(data["test_targets"].min() - margin, data["test_targets"].max() + margin)
    panel.set_xlabel("x")
    panel.set_ylabel("y")


def _errors(panel: Axes, group: list[Ensemble]) -> None:
    for row, each in enumerate(group):
        style: Style = _style(each) | {"linestyle": "none"}
        # Spread over the row by initialisation, so that marks of equal error stay apart.
        heights = row + np.linspace(-0.3, 0.3, each.size)
        for arrived, face in ((True, style["color"]), (False, "none")):
            chosen = each.arrived == arrived
            panel.plot(
                each.test_mse[chosen],
                heights[chosen],
                **style,
                markersize=4.5,
                markerfacecolor=face,
                alpha=0.8,
                label=rule_name(each.rule) if arrived == each.arrived.any() else None,
            )
        panel.plot([np.median(each.test_mse)] * 2, [row - 0.42, row + 0.42], color=style["color"], linewidth=3)
    panel.axvline(group[0].constant_mse, color=_NEUTRAL, linestyle="--")
    panel.set_xscale("log")
    panel.set_yticks([])
    panel.invert_yaxis()
    panel.set_xlabel("test mean squared error")


def _pre_activations(panel: Axes, group: list[Ensemble]) -> None:
    _histogram(panel, group, "pre_activations")
    panel.set_xscale("symlog", linthresh=1)
    panel.set_xlabel("pre-activation a")


def _activations(panel: Axes, group: list[Ensemble]) -> None:
    _histogram(panel, group, "activations")
    if group[0].histograms["activations_edges"][-1] > 1:
        panel.set_xscale("symlog", linthresh=1)
    panel.set_yscale("log")
    panel.set_xlabel("activation h")


def _histogram(panel: Axes, group: list[Ensemble], quantity: str) -> None:
    for each in group:
        counts = each.histograms[f"{quantity}_counts"].sum(axis=0)
        panel.stairs(
            counts / max(counts.sum(), 1),
            each.histograms[f"{quantity}_edges"],
            color=_style(each)["color"],
            linestyle=_style(each)["linestyle"],
            linewidth=1.6,
            label=rule_name(each.rule),
        )
    panel.set_ylabel("share of units")


def _layers(panel: Axes, group: list[Ensemble]) -> None:
    for number, each in enumerate(group):
        low, median, high = np.percentile(each.mean_abs, (_BAND[0], 50, _BAND[1]), axis=0)
        layers = np.arange(1, len(median) + 1) + 0.12 * (number - 1)
        panel.errorbar(
            layers,
            median,
            yerr=(median - low, high - median),
            **_style(each),
            capsize=3,
            label=rule_name(each.rule),
        )
    panel.set_yscale("log")
    panel.set_xticks(range(1, group[0].mean_abs.shape[1] + 1))
    panel.set_xlabel("hidden layer")
    panel.set_ylabel("mean |a|")


def _style(each: Ensemble) -> Style:
    return RULE_STYLES.get(each.rule, {"color": _NEUTRAL, "marker": "D", "linestyle": "-."})
