"""Figure 1: fifty initialisations of one MLP overfit five points of a cubic, under three backward rules."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import linear_backprop as lb
from linear_backprop_lab.data import Polynomial
from linear_backprop_lab.models import MLPEnsemble
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.studies._threads import one_thread
from linear_backprop_lab.timing import seconds
from linear_backprop_lab.training import EnsembleOutcome, train_ensemble

NAME = "fig1"

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
RULES = (lb.Exact(), lb.Linear(), lb.PreActivation())
_WIDTHS = (1, 50, 50, 50, 50, 1)
_INITIALISATIONS = 50
_LEARNING_RATE = 1e-3
_TOLERANCE = 1e-6
# Measured: a run that all networks arrive in is done in 1,200 steps; of tanh networks under Linear, 34 arrive in this
# many steps, 38 in 15,000 and 44 in 30,000. At this many the nine runs take two minutes on one core.
_MAX_STEPS = 10_000
_SMOKE = {"initialisations": 3, "max_steps": 200}
_LOG_EVERY = 100
_TIMED_STEPS = 20

# Of even width in arcsinh, so that a histogram reads from hundredths to thousands.
_WIDE = np.sinh(np.linspace(-8.5, 8.5, 171))
_ACTIVATION_EDGES = {
    "relu": _WIDE[85:],
    "tanh": np.linspace(-1, 1, 81),
    "sigmoid": np.linspace(0, 1, 81),
}


def plan(place: Place, scale: Scale) -> Plan:
    """The runs that all three parts of the figure are made of: each activation under each rule; whole, but at `SMOKE`.

    A run holds all initialisations: N networks with seeds 0 to N - 1; network n starts from the same weights in every
    run. One that has not arrived after the most steps is recorded as it is. The folder holds

    - `metrics.jsonl`: every 100 steps `step`, `arrived` (how many networks) and `median_train_mse`;
    - `networks.npz`: a network each `steps`, `train_mse`, `test_mse` (against the curve without noise, on
      201 points) and `status`;
    - `predictions.npz`: `train_inputs`, `train_targets`, `test_inputs`, `test_targets`, each (samples,),
      and `predictions` (N, 201);
    - `points.npz` and `grid.npz`, on the 5 training points and on the 201: of `pre_activations` and
      `activations` the histogram over networks, samples and units, `*_counts` (layers, bins) and
      `*_edges` (bins + 1,), whose end bins count what lies beyond them, too, and `*_mean_abs` (N, layers);
    - `record.json`: how many networks `arrived`, `diverged` and were `unfinished`, and medians.
    """
    return Plan(configs(**_SMOKE) if scale is Scale.SMOKE else configs())


def configs(*, initialisations: int = _INITIALISATIONS, max_steps: int = _MAX_STEPS) -> list[Config]:
    """Of N networks that take so many steps at most, each activation under each rule."""
    return [
        {
            "experiment": NAME,
            "activation": activation,
            "rule": repr(rule),
            "widths": _WIDTHS,
            "seeds": list(range(initialisations)),
            "data_seed": 0,
            "learning_rate": _LEARNING_RATE,
            "tolerance": _TOLERANCE,
            "max_steps": max_steps,
        }
        for activation, rule in itertools.product(ACTIVATIONS, RULES)
    ]


def job(run: Run, place: Place) -> Job:
    """The job of a run of `plan`; it needs no images."""
    config = run.config
    return Job(
        run=run,
        label=f"{len(config['seeds'])} MLPs, {config['activation']}, {config['rule']}",
        steps=config["max_steps"],
        perform=partial(_perform, run),
        estimate=partial(_estimate, config),
    )


@one_thread()
def _estimate(config: Mapping[str, Any]) -> float:
    """Seconds if no network arrives before the last step."""
    data = Polynomial.sample(config["data_seed"])
    model = MLPEnsemble.from_seeds(config["widths"], ACTIVATIONS[config["activation"]], config["seeds"])
    train = partial(train_ensemble, model, data.train_inputs, data.train_targets, tolerance=0, max_steps=_TIMED_STEPS)
    return seconds(train) / _TIMED_STEPS * config["max_steps"]


@one_thread()
def _perform(run: Run, on_step: OnStep) -> None:
    """Make the run from its beginning; what a killed attempt left is removed, for none takes a minute."""
    run.start()
    started = time.perf_counter()
    config = run.config
    data = Polynomial.sample(config["data_seed"])
    activation = lb.with_rule(ACTIVATIONS[config["activation"]], lb.rule_from_name(config["rule"]))
    model = MLPEnsemble.from_seeds(config["widths"], activation, config["seeds"])
    outcome = train_ensemble(
        model,
        data.train_inputs,
        data.train_targets,
        tolerance=config["tolerance"],
        max_steps=config["max_steps"],
        learning_rate=config["learning_rate"],
        on_step=partial(_report_step, run, on_step),
    )
    _save(run, model, data, outcome, seconds=time.perf_counter() - started)


def _report_step(run: Run, on_step: OnStep, step: int, train_mse: Tensor) -> None:
    if step % _LOG_EVERY == 0:
        arrived = int((train_mse <= run.config["tolerance"]).sum())
        run.log(step=step, arrived=arrived, median_train_mse=_median(train_mse.numpy()))
        on_step(step)


@torch.no_grad()
def _save(run: Run, model: MLPEnsemble, data: Polynomial, outcome: EnsembleOutcome, seconds: float) -> None:
    predictions = model(data.test_inputs)
    test_mse = (predictions - data.test_targets).square().mean(dim=(1, 2)).numpy()
    train_mse = outcome.train_mse.numpy()
    run.save_arrays(
        "networks",
        steps=outcome.steps.numpy(),
        train_mse=train_mse,
        test_mse=test_mse,
        status=np.array(outcome.status),
    )
    samples = {name: values.squeeze(1).numpy() for name, values in vars(data).items()}
    run.save_arrays("predictions", predictions=predictions.squeeze(2).numpy(), **samples)
    points = _units(model, data.train_inputs, run.config["activation"])
    run.save_arrays("points", **points)
    run.save_arrays("grid", **_units(model, data.test_inputs, run.config["activation"]))
    run.close(
        networks=len(train_mse),
        **{status: Counter(outcome.status)[status] for status in ("arrived", "diverged", "unfinished")},
        median_steps=_median(outcome.steps.numpy()),
        median_train_mse=_median(train_mse),
        median_test_mse=_median(test_mse),
        median_mean_abs_pre_activation=[_median(layer) for layer in points["pre_activations_mean_abs"].T],
        seconds=seconds,
    )


def _units(model: MLPEnsemble, inputs: Tensor, activation: str) -> dict[str, NDArray[Any]]:
    """Histograms and mean magnitudes of what every hidden layer holds for `inputs`."""
    units = model.units(inputs)
    edges = {"pre_activations": _WIDE, "activations": _ACTIVATION_EDGES[activation]}
    arrays: dict[str, NDArray[Any]] = {}
    for name, layers in {"pre_activations": units.pre_activations, "activations": units.activations}.items():
        arrays[f"{name}_edges"] = edges[name]
        arrays[f"{name}_counts"] = np.stack([_histogram(layer, edges[name]) for layer in layers])
        arrays[f"{name}_mean_abs"] = torch.stack([x.abs().mean(dim=(1, 2)) for x in layers], dim=1).numpy()
    return arrays


def _histogram(values: Tensor, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    finite = values[values.isfinite()].double().clamp(edges[0], edges[-1])
    return np.histogram(finite.numpy(), bins=edges)[0]


def _median(values: NDArray[Any] | Sequence[float]) -> float | None:
    """The median, what is not a number counting as infinite; None where it is infinite, as JSON has none."""
    median = float(np.median(np.where(np.isnan(values), np.inf, values)))
    return median if np.isfinite(median) else None
