"""Runs on images as the report sees them: their settings by name, their curves, and which belong together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import ReportError
from linear_backprop_lab.report.names import rule_name
from linear_backprop_lab.studies._alike import alike

SIGNIFICANT = 1.96
# What differs between the runs of one scale.
_VARIED = (
    *("experiment", "rule", "model.activation", "model.batch_norm", "model.initialization"),
    *("recipe.learning_rate", "recipe.weight_decay", "recipe.seed", "recipe.epochs", "recipe.augment"),
)
# And between those of one network and rule.
_SETTING = tuple(f"recipe.{name}" for name in ("learning_rate", "weight_decay", "seed", "epochs"))


def learning_rate(run: Run) -> float:
    """The learning rate."""
    return run.config["recipe"]["learning_rate"]


def penalty(run: Run) -> float:
    """The factor of the l2 penalty."""
    return run.config["recipe"]["weight_decay"]


def seed(run: Run) -> int:
    """The seed of weights and order."""
    return run.config["recipe"]["seed"]


def epochs(run: Run) -> int:
    """How many epochs were asked for."""
    return run.config["recipe"]["epochs"]


def setting(run: Run) -> str:
    """What a sweep varies, and whether it ended well."""
    later = ", diverged" if run.record["status"] == "diverged" else ""
    return f"lr {learning_rate(run):g}, l2 {penalty(run):g}{later}"


def chance(run: Run) -> float:
    """The accuracy of a guess."""
    return 1 / run.config["model"]["classes"]


def standard_error(run: Run, share: float) -> float:
    """Of a share measured on the run's test images."""
    return math.sqrt(share * (1 - share) / run.config["test_images"])


def direction(gap: float, error: float) -> int:
    """1 where a difference is above 0 by more than 1.96 of its standard errors, -1 where below, else 0."""
    return (gap > SIGNIFICANT * error) - (gap < -SIGNIFICANT * error)


def is_above_chance(run: Run, accuracy: float) -> bool:
    """Whether an accuracy on the run's test images is above a guess's by more than 1.96 standard errors."""
    return direction(accuracy - chance(run), standard_error(run, chance(run))) > 0


def variant(run: Run) -> str:
    """With or without batch normalization, in words; empty where there is no such choice."""
    normalized = run.config["model"].get("batch_norm")
    return "" if normalized is None else "with batch norm" if normalized else "no batch norm"


def setting_cells(run: Run) -> dict[str, str]:
    """Which run of a sweep it is, in the cells of a table."""
    return {
        "network": variant(run),
        "rule": rule_name(run.config["rule"]),
        "learning rate": f"{learning_rate(run):g}",
        "l2": f"{penalty(run):g}",
    }


def curve(run: Run, metric: str) -> tuple[list[int], list[float]]:
    """The epochs and the values of a metric, where it is finite."""
    lines = [line for line in run.metrics if line[metric] is not None]
    return [line["epoch"] for line in lines], [line[metric] for line in lines]


def epochs_ahead(backprop: Run, linear: Run) -> int:
    """After how many of the epochs that both have Linear Backprop's test accuracy is the higher."""
    pairs = zip(backprop.metrics, linear.metrics, strict=False)
    return sum(other["test_accuracy"] > one["test_accuracy"] for one, other in pairs)


def first_loss(run: Run) -> float:
    """The mean training loss of the first epoch; infinite where training diverged."""
    loss = run.metrics[0]["train_loss"]
    return math.inf if loss is None else loss


def fullest(runs: Sequence[Run]) -> list[Run]:
    """Of runs at several scales those at the largest: the most training images, then the most runs.

    A single setting is no sweep, and counts only where there is none. Further seeds of a network and rule whose sweep
    is not among the runs are passed over, so that `swept` finds at least one run of each that remains.

    Raises:
        ReportError: There is no run of a sweep at all.
    """
    groups = alike(runs, *_VARIED)
    largest = max(groups, key=lambda group: (_is_swept(group), group[0].config["train_images"], len(group)))
    sweep = swept(largest)
    if not sweep:
        raise ReportError("not decided, records missing: there are further seeds, and no run of the sweep, seed 0")
    return [run for each in alike(largest, *_SETTING) if not set(sweep).isdisjoint(each) for run in each]


def _is_swept(runs: Sequence[Run]) -> bool:
    return len({(learning_rate(run), penalty(run)) for run in runs}) > 1


def swept(runs: Sequence[Run]) -> list[Run]:
    """The runs of the sweep itself: seed 0 and the fewest epochs, in the order of their settings."""
    fewest = min(map(epochs, runs))
    members = [run for run in runs if seed(run) == 0 and epochs(run) == fewest]
    return sorted(members, key=lambda run: (learning_rate(run), penalty(run), run.config["rule"]))


Networks = dict[str, list[Run]]
"""The runs of each network, by its name."""


def variants(runs: Sequence[Run]) -> Networks:
    """The runs with and those without batch normalization, by name; those without the choice have an empty one."""
    named: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        named[variant(run)].append(run)
    return dict(sorted(named.items()))


def under(runs: Sequence[Run], rule: str, activation: str | None = None) -> list[Run]:
    """The runs under a rule, and with an activation if one is named."""
    return [
        run for run in runs if run.config["rule"] == rule and activation in (None, run.config["model"]["activation"])
    ]
