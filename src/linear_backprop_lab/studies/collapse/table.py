"""The records of the experiment `collapse` as small tables: every method on every model, over its seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.records import Run
from linear_backprop_lab.report.names import activation_name
from linear_backprop_lab.studies._alike import alike
from linear_backprop_lab.studies.images.settings import epochs, learning_rate, seed

BACKPROP = "backprop"
_NAMES = {
    BACKPROP: "Backprop",
    "linear": "Linear",
    "local-linear": "LocallyExact(Linear)",
    "local-mean": "LocallyExact(MeanLinear)",
}
_NAMES_AT = {"above": "Linear above {}"}
_FAMILIES = (*_NAMES, *_NAMES_AT)
_MODELS = {"mlp": "MLP", "vgg19": "VGG19", "residual": "residual convnet"}
_CLASSES = 10


def family(method: str) -> str:
    """The method without the layer it is at."""
    return method.partition(":")[0]


def method_name(method: str) -> str:
    """What readers call a method, from its name in a configuration; all but Backprop are collapsed."""
    kind, _, path = method.partition(":")
    return _NAMES_AT[kind].format(path) if path else _NAMES[kind]


@dataclass(frozen=True)
class Trained:
    """One method on one model: a run a seed, all at the same learning rate.

    Attributes:
        runs: In the order of their seeds.
        swept: The learning rates it was swept over, ascending.
        seconds_per_step: As timed in turns with the other methods; None where that was not done.
    """

    runs: tuple[Run, ...]
    swept: tuple[float, ...]
    seconds_per_step: float | None

    @property
    def method(self) -> str:
        """Its name in the configuration."""
        return self.runs[0].config["method"]

    @property
    def learning_rate(self) -> float:
        """Of every run."""
        return learning_rate(self.runs[0])

    @property
    def is_at_the_edge(self) -> bool:
        """Whether a learning rate beyond those that were swept might have been better."""
        return self.learning_rate in (self.swept[:1] + self.swept[-1:])

    @property
    def diverged(self) -> int:
        """How many runs."""
        return sum(run.record["status"] == "diverged" for run in self.runs)

    @cached_property
    def _accuracies(self) -> NDArray[np.float64]:
        """(seeds, 1 + epochs): test accuracy, from chance on; a run that diverged keeps its last."""
        length = epochs(self.runs[0])
        logged = [[line["test_accuracy"] for line in run.metrics] for run in self.runs]
        return np.array([[1 / _CLASSES, *each, *each[-1:] * (length - len(each))] for each in logged])

    @property
    def curve(self) -> NDArray[np.float64]:
        """Mean test accuracy after 0, 1, ... epochs."""
        return self._accuracies.mean(0)

    @property
    def accuracy(self) -> float:
        """Mean test accuracy after the last epoch."""
        return float(self.curve[-1])

    @property
    def error(self) -> float:
        """The standard error of `accuracy` over the seeds; NaN for one seed."""
        count = len(self.runs)
        return float(self._accuracies[:, -1].std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan

    @property
    def samples(self) -> NDArray[np.int64]:
        """Training images seen after 0, 1, ... epochs."""
        return np.arange(len(self.curve)) * self.runs[0].config["train_images"]

    @property
    def seconds(self) -> NDArray[np.float64] | None:
        """Training seconds after 0, 1, ... epochs: steps times the seconds of a step, tests not counted."""
        if self.seconds_per_step is None:
            return None
        config = self.runs[0].config
        steps = math.ceil(config["train_images"] / config["recipe"]["batch_size"])
        return np.arange(len(self.curve)) * steps * self.seconds_per_step

    def seconds_to(self, level: float) -> float | None:
        """When the curve first reaches `level`, linear between epochs; None where it does not, or without timing."""
        reached = np.flatnonzero(self.curve >= level)
        if self.seconds is None or not reached.size:
            return None
        last = int(reached[0])
        if last == 0:
            return 0.0
        between = slice(last - 1, last + 1)
        return float(np.interp(level, self.curve[between], self.seconds[between]))


@dataclass(frozen=True)
class Study:
    """The methods on one model, all else being equal."""

    methods: dict[str, Trained]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Of any run: what is not the method, its learning rate or the seed is the same in all."""
        return next(iter(self.methods.values())).runs[0].config

    @property
    def name(self) -> str:
        """The model, in a few words."""
        model = self.config["model"]
        return f"{_MODELS[model['name']]} {_size(model)}, {activation_name(model['activation'])}"

    @property
    def backprop(self) -> Trained | None:
        """What the others are compared with."""
        return self.methods.get(BACKPROP)

    @property
    def others(self) -> list[Trained]:
        """Every method but Backprop."""
        return [trained for method, trained in self.methods.items() if method != BACKPROP]

    def speed(self, trained: Trained) -> float | None:
        """How many times faster than Backprop's a step is; None without timing."""
        if self.backprop is None or self.backprop.seconds_per_step is None or trained.seconds_per_step is None:
            return None
        return self.backprop.seconds_per_step / trained.seconds_per_step

    def points_lost(self, trained: Trained) -> float:
        """How far its accuracy is below Backprop's, in percentage points; infinite without Backprop."""
        return math.inf if self.backprop is None else 100 * (self.backprop.accuracy - trained.accuracy)

    def is_level(self, trained: Trained) -> bool | None:
        """Whether its accuracy is not below Backprop's by more than one standard error of the difference.

        None where that cannot be told: no Backprop, or one seed.
        """
        if self.backprop is None or math.isnan(error := math.hypot(self.backprop.error, trained.error)):
            return None
        return trained.accuracy - self.backprop.accuracy >= -error


def studies(runs: Sequence[Run]) -> list[Study]:
    """From all runs of the experiment, those of the sweep and the timing included; in the order of their names.

    Of a model that was studied at several scales, the one with the most training counts.
    """
    parts: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        parts[run.config["part"]].append(run)
    groups = alike(parts["train"], "method", "recipe.learning_rate", "recipe.seed")
    found = [_study(group, parts["sweep"], parts["timing"]) for group in groups]
    fullest = {study.name: study for study in sorted(found, key=_training)}
    return [fullest[name] for name in sorted(fullest)]


def _training(study: Study) -> int:
    """How many images every run of it sees."""
    return study.config["train_images"] * study.config["recipe"]["epochs"]


def _size(model: dict[str, Any]) -> str:
    """The width, the channels of the stages, or the hidden layers: how many by how wide, where all are alike."""
    if "width" in model:
        return f"width {model['width']:g}"
    widths = model["widths"][1:-1] if model["name"] == "mlp" else model["widths"]
    alike = len(widths) > 1 and len(set(widths)) == 1
    return f"{len(widths)} x {widths[0]}" if alike else "-".join(map(str, widths))


def _study(group: Sequence[Run], sweep: Sequence[Run], timing: Sequence[Run]) -> Study:
    seconds = _seconds_per_step(timing, group[0].config)
    methods = {run.config["method"]: None for run in group}
    timed = list(seconds)
    order = sorted(methods, key=lambda m: (_FAMILIES.index(family(m)), timed.index(m) if m in timed else len(timed), m))
    return Study({method: _trained(method, group, sweep, seconds.get(method)) for method in order})


def _trained(method: str, group: Sequence[Run], sweep: Sequence[Run], seconds_per_step: float | None) -> Trained:
    """Where a method was trained at several learning rates, the one with the most seeds."""
    runs = [run for run in group if run.config["method"] == method]
    fullest = max(alike(sorted(runs, key=seed), "recipe.seed"), key=len)
    same = [run for run in sweep if all(run.config[key] == runs[0].config[key] for key in ("data", "model", "method"))]
    return Trained(tuple(fullest), tuple(sorted(set(map(learning_rate, same)))), seconds_per_step)


def _seconds_per_step(timing: Sequence[Run], config: dict[str, Any]) -> dict[str, float]:
    """By method, in the order they were timed in; of several timings, the one of most rounds."""
    for run in sorted(timing, key=lambda run: -run.config["rounds"]):
        for line in run.metrics:
            if line["model"] == config["model"] and line["batch_size"] == config["recipe"]["batch_size"]:
                return line["seconds"]
    return {}
