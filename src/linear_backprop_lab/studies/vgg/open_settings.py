"""The section on what the paper leaves open: figure 4's sweep under other initializations, and not augmented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, all_or_some, by_direction
from linear_backprop_lab.report.drawing import RULE_COLORS, RULE_MARKERS, legend_above, panels, rule_name, to_svg
from linear_backprop_lab.studies.images.choices import (
    CHOICE_COLUMNS,
    both_chosen,
    choice_rows,
    described,
    exceeds,
    is_learned,
    learned,
    under_both,
)
from linear_backprop_lab.studies.images.selection import Choice
from linear_backprop_lab.studies.images.settings import (
    BACKPROP,
    LINEAR,
    SIGNIFICANT,
    Networks,
    chance,
    fullest,
    scale,
    standard_error,
    swept,
    variants,
)

from .figure4 import MOST, ahead_early

_INITIALIZATIONS = {"he": "He", "xavier": "Xavier", "default": "PyTorch's default"}
_OFFSETS = {BACKPROP: 0.12, LINEAR: -0.12}


def open_settings(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh under several choices, at least one."""
    sweep = swept(fullest(runs))
    by_network = {name: _by_choice(members) for name, members in variants(sweep).items()}
    networks = {f"{name}, {choice}": runs for name, each in by_network.items() for choice, runs in each.items()}
    compared = under_both(networks)
    rows = [row for name, each in networks.items() for row in choice_rows(name, each)]
    return Section(
        id="open-settings",
        title="What the paper leaves open: initialization and augmentation",
        asked="Figure 2 does not say how VGG19 was initialized, whether its images were augmented or whether it had "
        "batch normalization. Does what is claimed of it depend on that? The sweep of figure 4 under other choices, "
        "one at a time, each rule at its best. " + scale(sweep),
        figures=(_figure(by_network),) if compared else (),
        claims=(_learns(compared), _ahead(compared), _early(compared)) if compared else (),
        table=Table(CHOICE_COLUMNS, tuple(rows)),
        rerun="linear-backprop reproduce open-settings --scale cpu",
    )


def _by_choice(runs: Sequence[Run]) -> Networks:
    """What figures 2 to 4 take comes first."""
    found: Networks = defaultdict(list)
    for run in sorted(runs, key=_distance):
        found[_choice_name(run)].append(run)
    return dict(found)


def _distance(run: Run) -> tuple[bool, int]:
    return not run.config["recipe"]["augment"], list(_INITIALIZATIONS).index(run.config["model"]["initialization"])


def _choice_name(run: Run) -> str:
    initialized = _INITIALIZATIONS[run.config["model"]["initialization"]]
    return f"{initialized}, {'augmented' if run.config['recipe']['augment'] else 'not augmented'}"


def _figure(by_network: dict[str, Networks]) -> Figure:
    """A panel a network, in it a row a choice, the first on top."""
    compared = {name: choices for name, each in by_network.items() if (choices := under_both(each))}
    with panels(list(compared), height=2.6) as drawn:
        for panel, choices in zip(drawn, compared.values(), strict=True):
            for row, runs in enumerate(choices.values()):
                _marks(panel, row, runs)
            panel.set_yticks([-row for row in range(len(choices))], list(choices), fontsize="small")
            panel.axvline(chance(next(iter(choices.values()))[0]), color="#808080", linestyle="--", linewidth=1)
            panel.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        highest = max(panel.get_xlim()[1] for panel in drawn)
        for panel in drawn:
            panel.set_xlim(0, highest)
        drawn[-1].set_xlabel("test accuracy")
        legend_above(drawn[0], drawn[0].get_legend_handles_labels()[0])
        svg = to_svg(drawn[0], salt="open-settings")
    return Figure(
        "Test accuracy under each choice",
        "Each rule at its best, setting and epoch chosen on held-out images; bars: 1.96 standard errors of the test "
        "set, one seed. Dashed: a guess.",
        svg,
    )


def _marks(panel: Axes, row: int, runs: Sequence[Run]) -> None:
    for rule, choice in zip((BACKPROP, LINEAR), both_chosen(runs, "held_out"), strict=True):
        panel.errorbar(
            choice.value,
            _OFFSETS[rule] - row,
            xerr=SIGNIFICANT * standard_error(choice.run, choice.value),
            color=RULE_COLORS[rule],
            marker=RULE_MARKERS[rule],
            linewidth=1.2,
            linestyle="",
            label=rule_name(rule) if row == 0 else None,
        )


def _learns(compared: Networks) -> Claim:
    best = learned(compared, "held_out")
    return Claim(
        experiment="open-settings",
        claim="With Linear Backprop a deep network of tanh units learns, however it is initialized.",
        paper="“By using Linear Backprop, however, we are able to ensure that gradients flow to continue learning.” "
        "(section 1.2)",
        measured="; ".join(
            f"{name}: {'every run diverged' if choice is None else described(choice)}" for name, choice in best.items()
        ),
        verdict=all_or_some(list(map(is_learned, best.values()))),
        key=f"in {sum(map(is_learned, best.values()))} of {len(best)} networks and choices",
        how="of the runs that did not diverge; holds where the test accuracy, chosen on held-out images, is above "
        "chance by more than 1.96 standard errors of the test set under every choice; partly where under some",
    )


def _ahead(compared: Networks) -> Claim:
    pairs = {name: both_chosen(runs, "held_out") for name, runs in compared.items()}
    return Claim(
        experiment="open-settings",
        claim="With tanh, Linear Backprop is ahead of Backprop, each at its best setting.",
        paper="“Unlike Backprop with tanh shown in Figure 2, Backprop with ReLU is able to match learning with tanh "
        "and Linear Backprop.” (appendix A)",
        measured="; ".join(
            f"{name}: {linear.value:.1%} against {backprop.value:.1%}{_winner(backprop, linear)}"
            for name, (backprop, linear) in pairs.items()
        ),
        verdict=by_direction(
            [exceeds(linear, backprop) - exceeds(backprop, linear) for backprop, linear in pairs.values()]
        ),
        key=f"in {sum(exceeds(linear, backprop) for backprop, linear in pairs.values())} of {len(pairs)}, Backprop in "
        f"{sum(exceeds(backprop, linear) for backprop, linear in pairs.values())}",
        how="Linear Backprop's against Backprop's; holds where its test accuracy, chosen on held-out images, is above "
        "by more than 1.96 standard errors of the difference under every choice; partly where under some; one seed",
    )


def _winner(backprop: Choice, linear: Choice) -> str:
    if exceeds(linear, backprop):
        return ", Linear Backprop is ahead"
    return ", Backprop is ahead" if exceeds(backprop, linear) else ""


def _early(compared: Networks) -> Claim:
    ahead = {name: ahead_early(runs) for name, runs in compared.items()}
    return Claim(
        experiment="open-settings",
        claim="Early in training Linear Backprop is ahead of Backprop.",
        paper="“In the early stages of learning, Linear Backprop in particular performs favorably compared with "
        "Backprop learning.” (appendix B)",
        measured="; ".join(f"{name}: at {sum(each)} of {len(each)} settings" for name, each in ahead.items()),
        verdict=all_or_some([sum(each) >= MOST * len(each) for each in ahead.values() if each]),
        key=f"at {sum(map(sum, ahead.values()))} of {sum(map(len, ahead.values()))} settings",
        how="at the same learning rate, penalty and initial weights; holds where the mean training loss of the first "
        "epoch is lower under Linear Backprop at three quarters of the settings at least, under every choice; partly "
        "where under some; infinite where training diverged",
    )
