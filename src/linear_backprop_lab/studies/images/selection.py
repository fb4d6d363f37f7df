"""Choosing a setting and an epoch: on the test set, as the paper does, or on held-out images, as is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from linear_backprop_lab.records import Run

Protocol = Literal["test", "held_out"]
Metric = Literal["accuracy", "top5_error"]


@dataclass(frozen=True)
class Choice:
    """What was chosen among runs.

    Attributes:
        run: Whose settings.
        epoch: After which epoch, from 1.
        value: The metric on the test set there, whatever it was chosen on.
    """

    run: Run
    epoch: int
    value: float


def protocols(run: Run) -> tuple[Protocol, ...]:
    """Those that the run can be chosen by: without held-out images, the test set alone."""
    return ("test", "held_out") if run.config["held_out_images"] else ("test",)


def choose(runs: Sequence[Run], protocol: Protocol, metric: Metric = "accuracy") -> Choice:
    """The best run and epoch on what the protocol names; of equals the first.

    An epoch whose loss is not finite is chosen only where a run has no other.

    Args:
        runs: Complete runs on images, at least one.
        protocol: `"test"` is the paper's: the test set chooses, and what it says is reported. `"held_out"`: images
            held out of the training set choose, and the test set, which had no say, is reported.
        metric: `"accuracy"`, more is better, or `"top5_error"`, less is.
    """
    sign = 1 if metric == "accuracy" else -1
    candidates = [(run, line) for run in runs for line in _finite_epochs(run)]
    run, line = max(candidates, key=lambda candidate: sign * candidate[1][f"{protocol}_{metric}"])
    return Choice(run, line["epoch"], line[f"test_{metric}"])


def _finite_epochs(run: Run) -> list[dict[str, Any]]:
    lines = run.metrics
    return [line for line in lines if None not in (line["test_loss"], line["train_loss"])] or lines[:1]
