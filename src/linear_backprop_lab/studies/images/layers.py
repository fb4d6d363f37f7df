"""What the layers of a network look like in training: gradients that reach them, units that are saturated."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, all_or_some
from linear_backprop_lab.report.drawing import as_share, axes, label_ends, rule_line, to_svg
from linear_backprop_lab.report.names import BACKPROP, LINEAR
from linear_backprop_lab.studies.images.selection import choose

from .settings import Networks, under

_GRADIENTS = {BACKPROP: "gradient_norm_backprop", LINEAR: "gradient_norm_linear"}
_VANISHED = 0.1


def layers_figures(name: str, runs: Sequence[Run]) -> list[Figure]:
    """Gradient norms and saturation a layer, for each rule's best run; none where it was not recorded.

    Args:
        name: Of the network.
        runs: A sweep under both rules.
    """
    best = {rule: choose(under(runs, rule), "test").run for rule in (BACKPROP, LINEAR)}
    if any("cosine" not in run.metrics[0] for run in best.values()):
        return []
    return [_gradients(name, best[BACKPROP]), _saturation(name, best)]


def _gradients(name: str, run: Run) -> Figure:
    line = run.metrics[0]
    with axes() as drawn:
        for rule, metric in _GRADIENTS.items():
            layers = [(layer, norm) for layer, norm in enumerate(line[metric], start=1) if norm]
            drawn.plot(
                *zip(*layers, strict=True) if layers else ((), ()),
                **rule_line(rule),
            )
        drawn.set_yscale("log")
        drawn.set_xlabel("layer, from the input")
        drawn.set_ylabel("norm of the weight's gradient")
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_ends(drawn)
        svg = to_svg(drawn, salt=f"gradients-{name}-{run.key}")
    cosine = "not finite" if line["cosine"] is None else f"{line['cosine']:.2f}"
    return Figure(
        f"Gradients that reach the layers{_of(name)}",
        "Both gradients on the same 128 images at the same weights: those of Backprop's best run after its first "
        f"epoch. The cosine between them, all parameters together, is {cosine}.",
        svg,
    )


def _saturation(name: str, best: dict[str, Run]) -> Figure:
    with axes() as drawn:
        for rule, run in best.items():
            shares = run.metrics[-1]["saturation"]
            drawn.plot(
                range(1, len(shares) + 1),
                [float("nan") if share is None else share for share in shares],
                **rule_line(rule),
            )
        drawn.set_xlabel("activation layer, from the input")
        as_share(drawn, "saturated units")
        drawn.set_ylim(0, 1)
        label_ends(drawn)
        svg = to_svg(drawn, salt=f"saturation-{name}-{best[LINEAR].key}")
    return Figure(
        f"Saturated units{_of(name)}",
        "The share of units and samples with |f'(a)| < 0.1 after the last epoch, on 128 training images; each rule's "
        "best run.",
        svg,
    )


def vanishing(compared: Networks) -> Claim:
    """Whether Backprop's gradients vanish on the way down, and Linear Backprop's do not."""
    found = {
        name: _lowest_to_highest(choose(under(runs, BACKPROP), "test").run)
        for name, runs in compared.items()
        if "cosine" in runs[0].metrics[0]
    }
    known = {name: ratios for name, ratios in found.items() if ratios is not None}
    return Claim(
        claim="With tanh, Backprop's gradients vanish on the way to the lowest layer, Linear Backprop's do not.",
        paper="“The tanh activation function is in particular prone to vanishing gradients since it has many "
        "saturating regions.” (section 1.2)",
        measured="; ".join(
            f"{name}: the lowest weight's gradient is {backprop:.2g} times as long as the highest weight's under "
            f"Backprop, {linear:.2g} times under Linear Backprop"
            for name, (backprop, linear) in known.items()
        )
        or "no record",
        verdict=all_or_some([backprop < _VANISHED <= linear for backprop, linear in known.values()]),
        key="; ".join(f"{backprop:.2g} times under Backprop, {name}" for name, (backprop, _) in known.items()),
        how=f"both at the weights of Backprop's best run after epoch 1; holds where the ratio is below {_VANISHED:g} "
        "under Backprop and not under Linear Backprop, in every network; partly where in some. A ratio far above 1 is "
        "the opposite trouble: the gradient explodes",
    )


def _lowest_to_highest(run: Run) -> tuple[float, float] | None:
    """Under Backprop and under Linear Backprop, after the first epoch; None where one is not finite."""
    norms = [run.metrics[0][_GRADIENTS[rule]] for rule in (BACKPROP, LINEAR)]
    if any(each[0] is None or not each[-1] for each in norms):
        return None
    backprop, linear = (each[0] / each[-1] for each in norms)
    return backprop, linear


def _of(name: str) -> str:
    return f": {name}" if name else ""
