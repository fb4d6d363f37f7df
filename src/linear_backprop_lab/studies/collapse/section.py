"""The section on how the collapsed passes learn: accuracy against samples and against seconds, beside Backprop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Figure, Section, Table
from linear_backprop_lab.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    in_percent,
    legend_above,
    panels,
    to_svg,
)
from linear_backprop_lab.studies.images.settings import learning_rate

from .claims import NEARLY, shown, verdicts
from .table import Study, Trained, family, method_name, studies

_STYLES = {"backprop": BLUE, "linear": ORANGE, "local-linear": GREEN, "local-mean": PURPLE, "above": GREY}
_LINE_STYLES = ("-", "--", ":", "-.")


def collapse(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiments `collapse` and `collapse-timing`, at least one."""
    table = studies(runs)
    return Section(
        id="collapse",
        title="The collapsed backward pass: does it learn as well, and sooner?",
        asked=_asked(runs),
        figures=tuple(map(_curves, table)),
        claims=verdicts(table) if table else (),
        table=Table.of([_row(study, each) for study in table for each in study.methods.values()]),
        rerun="linear-backprop reproduce collapse; linear-backprop reproduce collapse-timing",
        finding=_finding(table),
    )


def _finding(table: Sequence[Study]) -> str:
    """What the collapsed pass of plain Linear gives and costs, where it was timed."""
    pairs = [(study, study.methods["linear"]) for study in table if study.backprop and "linear" in study.methods]
    speeds = [speed for study, each in pairs if (speed := study.speed(each)) is not None]
    lost = [study.points_lost(each) for study, each in pairs]
    if not speeds:
        return ""
    return (
        f"The collapsed backward pass makes a training step {min(speeds):.2f} to {max(speeds):.2f} times as fast as "
        f"Backprop's at these sizes, and the network ends {min(lost):.0f} to {max(lost):.0f} points of test accuracy "
        "lower."
    )


def _asked(runs: Sequence[Run]) -> str:
    sources = sorted({run.record["source"].partition(";")[0] for run in runs if run.config["part"] == "train"})
    rates = sorted({learning_rate(run) for run in runs if run.config["part"] == "sweep"})
    threads = sorted({run.environment["threads"] for run in runs if run.config["part"] == "timing"})
    sweep = f" of {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
    timed = f" (threads of PyTorch: {' or '.join(map(str, threads))})" if threads else ""
    return (
        "Linear Backprop's backward pass can be collapsed to as many samples as there are classes, which makes a "
        "step cost little more than inference. Is anything lost in learning, and does the cheaper step pay? All "
        "methods but Backprop are collapsed: Linear everywhere; LocallyExact, a linear chain with each layer's own "
        "exact derivative; or exact up to a layer and linear above it. Every method "
        f"trains the same models with Adam, each at the learning rate{sweep} that was best in a shorter "
        "training (seed 0) on images held out of the training set; then once a seed, tested after every epoch on the "
        "test images. Seeds share initialisation and the order of the images across methods. The runs shared their "
        "machine, so their own times are not used: seconds are steps times the median seconds of a step, all methods "
        f"of a model timed in turns in one process{timed}. "
        f"Data: {'; '.join(sources) or 'none yet, nothing was trained at a chosen rate'}."
    )


def _curves(study: Study) -> Figure:
    timed = [each for each in study.methods.values() if each.seconds is not None]
    titles = ["against training images seen", *(["against seconds of training"] if timed else [])]
    with panels(titles, height=3.1) as drawn:
        for each, style in _styled(study):
            _curve(drawn[0], each, each.samples, style)
            if each.seconds is not None:
                _curve(drawn[1], each, each.seconds, style)
        for panel, label in zip(drawn, ("images", "seconds"), strict=False):
            panel.set_xlabel(label)
            panel.set_ylabel("test accuracy")
            in_percent(panel.yaxis)
        drawn[0].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        legend_above(drawn[0], drawn[0].get_lines())
        svg = to_svg(drawn[0], salt=f"collapse-{study.name}")
    return Figure(f"Test accuracy: {study.name}", _caption(study), svg)


def _styled(study: Study) -> list[tuple[Trained, str]]:
    """Every method and its line style, which tells those of a family apart."""
    seen: list[str] = []
    styled: list[tuple[Trained, str]] = []
    for method, trained in study.methods.items():
        styled.append((trained, _LINE_STYLES[seen.count(family(method)) % len(_LINE_STYLES)]))
        seen.append(family(method))
    return styled


def _curve(drawn: Axes, each: Trained, x: NDArray[Any], style: str) -> None:
    """After every epoch; chance, where all begin, is left out."""
    drawn.plot(
        x[1:],
        each.curve[1:],
        **_STYLES[family(each.method)],
        linestyle=style,
        markersize=3.5,
        label=method_name(each.method),
    )


def _caption(study: Study) -> str:
    config = study.config
    recipe = config["recipe"]
    seeds = sorted({len(each.runs) for each in study.methods.values()})
    return (
        f"{config['train_images']:,} training and {config['test_images']:,} test images, {recipe['epochs']} epochs, "
        f"batches of {recipe['batch_size']}, {recipe['optimizer'].capitalize()}; the mean of "
        f"{' or '.join(map(str, seeds))} seeds, after every epoch."
    )


def _row(study: Study, each: Trained) -> dict[str, str]:
    speed, step = study.speed(each), each.seconds_per_step
    end = None if study.backprop is None else study.backprop.accuracy
    return {
        "model": study.name,
        "method": method_name(each.method),
        "learning rate": f"{each.learning_rate:g}{', at the edge of the sweep' if each.is_at_the_edge else ''}",
        "seeds": f"{len(each.runs)}{f', {each.diverged} diverged' if each.diverged else ''}",
        "test accuracy": shown(each),
        "ms a step": "not timed" if step is None else f"{1000 * step:.1f}",
        "speed": "-" if speed is None else f"{speed:.2f}",
        "to Backprop's end": "-" if end is None else _seconds(each.seconds_to(end)),
        f"to {NEARLY:.0%} of it": "-" if end is None else _seconds(each.seconds_to(NEARLY * end)),
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
