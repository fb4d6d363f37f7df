"""The sections that show every curve of a tanh sweep: figure 4, and a first look at a part of the images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.lines import Line2D

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.drawing import GREY, RULE_STYLES, as_share, legend_above, panels, rule_line, to_svg
from linear_backprop_lab.report.names import BACKPROP, LINEAR
from linear_backprop_lab.studies.images.choices import finished, under_both
from linear_backprop_lab.studies.images.claims import ahead_once, early, learns
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.selection import choose, protocols
from linear_backprop_lab.studies.images.settings import (
    Networks,
    curve,
    fullest,
    is_above_chance,
    learning_rate,
    penalty,
    setting_cells,
    swept,
    under,
    variants,
)


def figure4(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh, at least one."""
    sweep = swept(fullest(runs))
    networks = variants(sweep)
    return Section(
        id="fig4",
        title="Figure 4: VGG19 with tanh, the whole sweep",
        asked="How does learning go at every learning rate and l2 penalty, under either rule? " + scale(sweep),
        figures=tuple(_figure(name, each) for name, each in networks.items()),
        claims=(early(networks), _needs_decay(networks)),
        table=_table(networks),
        rerun=rerun("fig4", sweep),
    )


def first_look(runs: Sequence[Run]) -> Section:
    """The section on the small sweep of the default command, from its complete runs, at least one."""
    sweep = swept(fullest(runs))
    networks = variants(sweep)
    compared = under_both(networks)
    return Section(
        id="images",
        title="A first look: VGG19 with tanh on a part of the images",
        asked="Figure 2's network, narrowed and trained for a few epochs, from the same initialisation under both "
        "rules: a first look at early learning, not figure 2 itself. " + scale(sweep),
        figures=tuple(_figure(name, each, "images") for name, each in compared.items()),
        claims=(learns(compared, protocol="test"), ahead_once(compared, "test"), early(compared)) if compared else (),
        table=_table(networks),
        rerun="linear-backprop reproduce images",
    )


def _figure(name: str, runs: Sequence[Run], salt: str = "fig4") -> Figure:
    rates = sorted({learning_rate(run) for run in runs}, reverse=True)
    penalties = sorted({penalty(run) for run in runs}, reverse=True)
    shades = [1 - 0.7 * number / max(1, len(penalties) - 1) for number in range(len(penalties))]
    with panels([f"learning rate {rate:g}" for rate in rates]) as drawn:
        for panel, rate in zip(drawn, rates, strict=True):
            for run in (run for run in runs if learning_rate(run) == rate):
                shade = shades[penalties.index(penalty(run))]
                style = RULE_STYLES[run.config["rule"]]
                panel.plot(*curve(run, "test_accuracy"), alpha=shade, markersize=3.5, **style)
            as_share(panel, "test accuracy")
            panel.set_xlabel("epoch")
        highest = max(panel.get_ylim()[1] for panel in drawn)
        for panel in drawn:
            panel.set_ylim(0, highest)
        rules = [Line2D([], [], **rule_line(rule)) for rule in (BACKPROP, LINEAR)]
        decays = [
            Line2D([], [], color=GREY["color"], alpha=shade, label=f"l2 {factor:g}")
            for factor, shade in zip(penalties, shades, strict=True)
        ]
        legend_above(drawn[0], [*rules, *decays])
        svg = to_svg(drawn[0], salt=f"{salt}-{name}")
    ended = sum(run.record["status"] == "diverged" for run in runs)
    fainter = "; the fainter a curve, the smaller its l2 penalty" if len(penalties) > 1 else ""
    caption = f"{len(runs)} runs, one seed{fainter}. {ended} diverged and end there."
    return Figure(f"Test accuracy: tanh, {name}", caption, svg)


def _needs_decay(networks: Networks) -> Claim:
    best = {name: _best_penalties(under(runs, LINEAR)) for name, runs in networks.items()}
    known = {name: pair for name, pair in best.items() if pair is not None}
    largest = {name: max(map(penalty, runs)) for name, runs in networks.items()}
    return Claim(
        claim="At a large learning rate Linear Backprop needs a larger weight decay.",
        paper="“For large learning rate, to avoid unit saturation and stay in linear regime of the neuron, larger "
        "weight decay is required for Linear Backprop as we expect.” (caption of figure 4)",
        measured="; ".join(
            f"{name}: best l2 penalty {large:g} at the largest learning rate that learns, {small:g} at the smallest"
            for name, (large, small) in known.items()
        )
        or "it learns at one learning rate alone, or there is one penalty alone",
        verdict=all_or_some([large > small for name, (large, small) in known.items() if small < largest[name]]),
        key="; ".join(f"{large:g} against {small:g}, {name}" for name, (large, small) in known.items()),
        how="of Linear Backprop's runs, the penalty with the best test accuracy at any epoch; holds where it is "
        "larger at the largest learning rate that is above chance than at the smallest, with and without batch "
        "normalization; partly where with one; not decided where the smallest rate already picks the largest penalty "
        "there is. Runs that diverged do not learn. One seed: where accuracies are close, the best penalty is chance",
    )


def _best_penalties(runs: Sequence[Run]) -> tuple[float, float] | None:
    """At the largest learning rate that learns and at the smallest; None where there is nothing to choose."""
    if len({penalty(run) for run in runs}) < 2:
        return None
    runs = finished(runs)
    rates = {learning_rate(run) for run in runs}
    best = {rate: choose([run for run in runs if learning_rate(run) == rate], "test") for rate in rates}
    learned = {rate: penalty(each.run) for rate, each in best.items() if is_above_chance(each.run, each.value)}
    return (learned[max(learned)], learned[min(learned)]) if len(learned) > 1 else None


def _table(networks: Networks) -> Table | None:
    return Table.of([_row(run) for runs in networks.values() for run in runs])


def _row(run: Run) -> dict[str, str]:
    loss = run.metrics[0]["train_loss"]
    heads = {"test": "best", "held_out": "held out, best"}
    return {
        **setting_cells(run),
        "loss, epoch 1": "diverged" if loss is None else f"{loss:.3f}",
        "last": f"{run.metrics[-1]['test_accuracy']:.1%}",
        **{heads[protocol]: f"{choose([run], protocol).value:.1%}" for protocol in protocols(run)},
        "ended": f"{run.record['status']}, epoch {run.record['epochs']}",
    }
