"""The section on figure 2 at the paper's own size: the same setting under both rules, finished or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some
from linear_backprop_lab.report.drawing import as_share, label_ends, panels, rule_line, to_svg
from linear_backprop_lab.report.names import BACKPROP, LINEAR, rule_name
from linear_backprop_lab.studies._alike import alike
from linear_backprop_lab.studies._only import Only
from linear_backprop_lab.studies.images.claims import MOST
from linear_backprop_lab.studies.images.scale import is_at_paper_scale, rerun
from linear_backprop_lab.studies.images.settings import (
    SIGNIFICANT,
    curve,
    epochs,
    epochs_ahead,
    learning_rate,
    penalty,
    seed,
    setting_cells,
    standard_error,
    variant,
)

from .runs import PAPER_RATE


@dataclass(frozen=True)
class _Pair:
    """Both rules at one setting, at the paper's size, and the small scale's runs at that rate."""

    backprop: Run
    linear: Run
    small: tuple[Run, ...]

    @property
    def name(self) -> str:
        config = f"lr {learning_rate(self.linear):g}, l2 {penalty(self.linear):g}"
        return f"{variant(self.linear)}, {config}"

    @property
    def both(self) -> list[tuple[float, float]]:
        """Backprop's and Linear Backprop's test accuracy after every epoch that both have."""
        pairs = zip(self.backprop.metrics, self.linear.metrics, strict=False)
        return [(one["test_accuracy"], other["test_accuracy"]) for one, other in pairs]

    @property
    def won(self) -> int:
        """After how many of these epochs Linear Backprop is ahead."""
        return epochs_ahead(self.backprop, self.linear)

    @property
    def diverged(self) -> bool:
        """Whether Linear Backprop did."""
        return self.linear.record["status"] == "diverged"

    def ahead(self, epoch: int) -> float:
        """How far Linear Backprop is ahead after an epoch, in standard errors of the difference on the test set."""
        one, other = self.both[epoch - 1]
        return (other - one) / math.hypot(standard_error(self.backprop, one), standard_error(self.linear, other))


def full_scale(runs: Sequence[Run]) -> Section:
    """The section, from runs of VGG19 with tanh, finished or not, at least one; smaller ones are shown beside them."""
    pairs = _pairs(runs)
    figures = tuple(map(_figure, pairs))
    full = sorted(filter(is_at_paper_scale, runs), key=_order)
    return Section(
        id="fig2-full",
        title="Figure 2 at the paper's own size",
        asked="At a smaller scale Linear Backprop leads at the paper's learning rate, and Backprop where each rule may "
        "choose its rate. Does it lead at the paper's own size, and does the lead last? VGG19 at full width with tanh "
        "units on 45,000 images of CIFAR-10 (5,000 are held out), batches of 128, vanilla SGD, the same setting and "
        "initial weights under both rules. " + _state(runs),
        figures=figures,
        claims=(_from_the_start(pairs), _lasts(pairs)) if pairs else (),
        table=Table.of(list(map(_row, full))),
        rerun=_rerun(pairs[0].linear if pairs else full[0]),
        finding=_finding(pairs) if pairs and pairs[0].both else "",
        headline=figures[0] if pairs and len(pairs[0].both) > 1 else None,
    )


def _rerun(run: Run) -> str:
    """The command that makes the runs of its setting again."""
    setting = {
        "batch_norm": run.config["model"]["batch_norm"],
        "learning_rate": learning_rate(run),
        "weight_decay": penalty(run),
    }
    return " ".join([rerun("fig4", [run]), *(f"--only {Only(key, value)}" for key, value in setting.items())])


def _finding(pairs: Sequence[_Pair]) -> str:
    """Of the longest curves in full, and where Linear Backprop diverged."""
    diverged = [f"{p.name.capitalize()}, it diverged in epoch {len(p.linear.metrics)}." for p in pairs if p.diverged]
    return " ".join([_of_the_longest(pairs[0]), *diverged])


def _of_the_longest(pair: _Pair) -> str:
    one, other = pair.both[-1]
    count = len(pair.both)
    going_on = "" if pair.diverged or count == epochs(pair.linear) else f" of {epochs(pair.linear)}; it is not finished"
    return (
        f"At the paper's own size, {pair.name}, Linear Backprop is ahead after {_won(pair)}: "
        f"{pair.both[0][1]:.1%} against {pair.both[0][0]:.1%} test accuracy after the first, {other:.1%} against "
        f"{one:.1%} after epoch {count}{going_on}."
    )


def _state(runs: Sequence[Run]) -> str:
    """Which runs have not ended yet."""
    going_on = [run for run in runs if run.record["status"] == "unfinished" and is_at_paper_scale(run)]
    if not going_on:
        return ""
    done = ", ".join(f"{rule_name(run.config['rule'])} {len(run.metrics)}" for run in going_on)
    return f"Not finished: of {epochs(going_on[0])} epochs each there are so far {done}; curves end where the runs are."


def _pairs(runs: Sequence[Run]) -> list[_Pair]:
    """One a setting that both rules were run at, seed by seed; that of most epochs first."""
    small = [run for run in runs if not is_at_paper_scale(run) and run.config["experiment"] == PAPER_RATE]
    groups = [{run.config["rule"]: run for run in each} for each in alike(filter(is_at_paper_scale, runs), "rule")]
    found = [_Pair(each[BACKPROP], each[LINEAR], _like(each[LINEAR], small)) for each in groups if len(each) == 2]
    return sorted(found, key=lambda pair: (-len(pair.both), -learning_rate(pair.linear), pair.name))


def _like(run: Run, small: Sequence[Run]) -> tuple[Run, ...]:
    """Of the small scale's runs those of seed 0 that normalize alike, at the same rate and the nearest penalty."""
    same_rate = [
        each
        for each in small
        if (variant(each), learning_rate(each), seed(each)) == (variant(run), learning_rate(run), 0)
    ]
    nearest = min(
        (penalty(each) for each in same_rate), key=lambda factor: abs(math.log(factor / penalty(run))), default=0
    )
    return tuple(each for each in same_rate if penalty(each) == nearest)


def _figure(pair: _Pair) -> Figure:
    with panels(["at the paper's own size", *_small_title(pair.small)], height=2.7) as drawn:
        for run in (pair.backprop, pair.linear):
            drawn[0].plot(*_over_steps(run), **rule_line(run.config["rule"]))
        for run in pair.small:
            drawn[1].plot(*_over_steps(run), **rule_line(run.config["rule"]), markersize=3)
        for panel in drawn:
            as_share(panel, "test accuracy")
            panel.set_xlabel("step of 128 images")
            panel.set_xlim(left=0)
            panel.locator_params(axis="x", nbins=5)
            label_ends(panel)
        svg = to_svg(drawn[0], salt=f"full-{pair.name}")
    return Figure(
        f"Test accuracy: tanh, {pair.name}",
        f"A mark an epoch; {len(pair.backprop.metrics)} epochs of Backprop and {len(pair.linear.metrics)} of Linear "
        f"Backprop, of {epochs(pair.linear)} asked for. "
        + (
            f"Below: the small scale at the same learning rate, l2 {penalty(pair.small[0]):g}, seed 0."
            if pair.small
            else ""
        ),
        svg,
    )


def _small_title(small: Sequence[Run]) -> list[str]:
    """Of the panel that shows the small scale's runs; none where there are none."""
    sizes = [(Fraction(run.config["model"]["width"]), run.config["train_images"]) for run in small[:1]]
    return [f"width {width}, {images:,} images: the same steps" for width, images in sizes]


def _over_steps(run: Run) -> tuple[list[float], list[float]]:
    a_epoch = math.ceil(run.config["train_images"] / run.config["recipe"]["batch_size"])
    found, values = curve(run, "test_accuracy")
    return [epoch * a_epoch for epoch in found], values


def _from_the_start(pairs: Sequence[_Pair]) -> Claim:
    begun = [pair for pair in pairs if pair.both]
    return Claim(
        claim="At the paper's own size and learning rate Linear Backprop leads from the start.",
        paper="“In the early stages of learning, Linear Backprop in particular performs favorably compared with "
        "Backprop learning.” (appendix B); figure 2",
        measured="; ".join(
            f"{pair.name}, after epoch 1: {pair.both[0][1]:.1%} against {pair.both[0][0]:.1%} under Backprop, "
            f"{pair.ahead(1):+.1f} standard errors"
            for pair in begun
        )
        or "no epoch yet",
        verdict=all_or_some([pair.ahead(1) > SIGNIFICANT for pair in begun]),
        key="; ".join(f"{pair.both[0][1]:.1%} against {pair.both[0][0]:.1%}" for pair in begun),
        how=f"holds where the test accuracy after the first epoch is above Backprop's by more than {SIGNIFICANT} "
        "standard errors of the difference at every setting; partly where at some; one seed",
    )


def _lasts(pairs: Sequence[_Pair]) -> Claim:
    return Claim(
        claim="At the paper's own size and learning rate the lead lasts.",
        paper="figure 2: 100 epochs",
        measured="; ".join(_lead(pair) for pair in pairs if pair.both) or "no epoch yet",
        verdict=all_or_some([_has_lasted(pair) for pair in pairs]) if all(map(_is_decided, pairs)) else "not decided",
        key="; ".join(f"ahead after {_won(pair)}, of {epochs(pair.linear)} asked for" for pair in pairs),
        how=f"holds where Linear Backprop's test accuracy is the higher after {MOST:.0%} of the epochs asked for at "
        "least, at every setting; partly where at some; not decided while epochs to come can turn it",
    )


def _won(pair: _Pair) -> str:
    """Of how many epochs Linear Backprop is ahead."""
    return f"{pair.won} of {len(pair.both)} epochs"


def _lead(pair: _Pair) -> str:
    one, other = pair.both[-1]
    return (
        f"{pair.name}: ahead after {_won(pair)}; after epoch {len(pair.both)} {other:.1%} against {one:.1%}; its "
        f"training loss is the lower after {_lower_losses(pair)} of these epochs"
    )


def _lower_losses(pair: _Pair) -> int:
    """After how many epochs the mean training loss under Linear Backprop is the lower; what diverged has none."""
    losses = zip(curve(pair.backprop, "train_loss")[1], curve(pair.linear, "train_loss")[1], strict=False)
    return sum(other < one for one, other in losses)


def _has_lasted(pair: _Pair) -> bool:
    return pair.won >= MOST * epochs(pair.linear)


def _is_decided(pair: _Pair) -> bool:
    """Whether the epochs to come cannot turn it; none come once both have ended, or Linear Backprop has diverged."""
    lost = len(pair.both) - pair.won
    ended = all(run.record["status"] != "unfinished" for run in (pair.backprop, pair.linear))
    return ended or pair.diverged or _has_lasted(pair) or lost > (1 - MOST) * epochs(pair.linear)


def _order(run: Run) -> tuple[Any, ...]:
    return variant(run), -learning_rate(run), penalty(run), run.config["rule"]


def _row(run: Run) -> dict[str, str]:
    last = run.metrics[-1]
    return {
        **setting_cells(run),
        "epochs": f"{len(run.metrics)} of {epochs(run)}",
        "train loss": "diverged" if last["train_loss"] is None else f"{last['train_loss']:.3f}",
        "test accuracy": f"{last['test_accuracy']:.1%}",
        "best": f"{max(line['test_accuracy'] for line in run.metrics):.1%}",
        "state": run.record["status"],
    }
