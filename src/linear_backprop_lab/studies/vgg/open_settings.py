"""The section on what the paper leaves open: figure 4's sweep under other initializations, and not augmented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Figure, Section
from linear_backprop_lab.report.drawing import GREY, RULE_STYLES, Style, in_percent, legend_above, panels, to_svg
from linear_backprop_lab.report.names import BACKPROP, LINEAR, rule_name
from linear_backprop_lab.studies.images.choices import both_chosen, choice_table, under_both
from linear_backprop_lab.studies.images.claims import ahead_once, early, learns
from linear_backprop_lab.studies.images.scale import rerun, scale
from linear_backprop_lab.studies.images.settings import (
    SIGNIFICANT,
    Networks,
    chance,
    fullest,
    standard_error,
    swept,
    variants,
)

_INITIALIZATIONS = {"he": "He", "xavier": "Xavier", "default": "PyTorch's default"}
_LEARNS = "With Linear Backprop a deep network of tanh units learns"
_OFFSETS = {BACKPROP: 0.12, LINEAR: -0.12}


def open_settings(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of VGG19 with tanh under several choices, at least one."""
    sweep = swept(fullest(runs))
    by_network = {name: _by_choice(members) for name, members in variants(sweep).items()}
    networks = {f"{name}, {choice}": runs for name, each in by_network.items() for choice, runs in each.items()}
    compared = under_both(networks)
    return Section(
        id="open-settings",
        title="What the paper leaves open: initialization and augmentation",
        asked="Figure 2 does not say how VGG19 was initialized, whether its images were augmented or whether it had "
        "batch normalization. Does what is claimed of it depend on that? The sweep of figure 4 under other choices, "
        "one at a time, each rule at its best. " + scale(sweep),
        figures=(_figure(by_network),) if compared else (),
        claims=(learns(compared, f"{_LEARNS}, however it is initialized."), ahead_once(compared), early(compared))
        if compared
        else (),
        table=choice_table(networks),
        rerun=rerun("open-settings", sweep),
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
            panel.axvline(chance(next(iter(choices.values()))[0]), color=GREY["color"], linestyle="--", linewidth=1)
            in_percent(panel.xaxis)
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
    no_line: Style = {"linestyle": ""}
    for rule, choice in zip((BACKPROP, LINEAR), both_chosen(runs, "held_out"), strict=True):
        panel.errorbar(
            choice.value,
            _OFFSETS[rule] - row,
            xerr=SIGNIFICANT * standard_error(choice.run, choice.value),
            **(RULE_STYLES[rule] | no_line),
            linewidth=1.2,
            label=rule_name(rule) if row == 0 else None,
        )
