"""Is Linear Backprop's update the gradient of a loss and a regularization term? The Jacobian says, on small MLPs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import mlp
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Plan
from linear_backprop_lab.studies._threads import one_thread
from linear_backprop_lab.timing import seconds

from .field import Problem, asymmetry, by_differences, jacobian

NAME = "regularizer"

ACTIVATIONS = ("tanh", "sigmoid", "softplus", "silu", "relu")
_RULES = (lb.Exact(), lb.Linear())
_WHOLE: dict[str, Any] = {
    "hidden_layers": (1, 2, 3),
    "scales": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "steps": (0, 10, 100, 1000),
    "seeds": tuple(range(5)),
}
_SMOKE: dict[str, Any] = {"hidden_layers": (1,), "scales": (0.1, 1.0), "steps": (0, 10), "seeds": (0,)}
_SETTING: dict[str, Any] = {"inputs": 3, "units": 6, "outputs": 2, "points": 40, "learning_rate": 0.1}


def plan(place: Place, scale: Scale) -> Plan:
    """A run an activation and rule: whole, but at the smallest scale.

    A line of `metrics.jsonl` is of one depth (`hidden_layers`), scale of the initial weights (`scale`, times PyTorch's
    own) and time in training (`step`, of gradient descent on all points by the rule's update); it has a list of a
    value a seed each, null where training diverged:

    - `loss`: half the mean squared error;
    - `asymmetry`: of the update's Jacobian, the antisymmetric part's norm over the symmetric part's;
    - `rescaled`: the same where each layer's update is multiplied by the mean f'(a) of every activation above it,
      null where one is 0;
    - `differences`: the largest deviation of the Jacobian from finite differences, over its largest entry.
    """
    size = _SMOKE if scale is Scale.SMOKE else _WHOLE
    pairs = itertools.product(ACTIVATIONS, _RULES)
    return Plan([{"experiment": NAME, "activation": f, "rule": repr(rule), **_SETTING, **size} for f, rule in pairs])


def job(run: Run, place: Place) -> Job:
    """The job of a run of `plan`; it needs no images."""
    return Job(
        run=run,
        label=f"Jacobians, {run.config['activation']}, {run.config['rule']}",
        steps=len(run.config["hidden_layers"]),
        perform=partial(_perform, run),
        estimate=partial(_estimate, run.config),
    )


@one_thread()
def _estimate(config: Mapping[str, Any]) -> float:
    """Seconds, by timing one Jacobian of the deepest network; training takes about as long as all of them."""
    deepest = max(config["hidden_layers"])
    problem = problem_of(config, deepest)
    jacobians = len(config["hidden_layers"]) * (len(config["scales"]) + len(config["steps"])) * len(config["seeds"])
    return 2 * jacobians * seconds(lambda: _of_one(problem, initial(problem.widths, 0, 1.0)))


@one_thread()
def _perform(run: Run, on_step: OnStep) -> None:
    """Make the run from its beginning; it takes seconds."""
    run.start()
    started = time.perf_counter()
    config = run.config
    for done, depth in enumerate(config["hidden_layers"], start=1):
        problem = problem_of(config, depth)
        for scale in config["scales"]:
            parameters = torch.stack([initial(problem.widths, seed, scale) for seed in config["seeds"]])
            run.log(hidden_layers=depth, scale=scale, step=0, **_measured(problem, parameters))
        _along_training(run, problem, depth)
        on_step(done)
    run.close(status="finished", seconds=time.perf_counter() - started)


def _along_training(run: Run, problem: Problem, depth: int) -> None:
    parameters = torch.stack([initial(problem.widths, seed, 1.0) for seed in run.config["seeds"]])
    update = torch.func.vmap(problem.update)
    done = 0
    for step in run.config["steps"]:
        for _ in range(step - done):
            parameters = parameters - run.config["learning_rate"] * update(parameters)
        if step:
            run.log(hidden_layers=depth, scale=1.0, step=step, **_measured(problem, parameters))
        done = step


def problem_of(config: Mapping[str, Any], hidden_layers: int) -> Problem:
    """The network and its points: inputs of N(0, 1), targets a sine of a random projection of them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(config["points"], config["inputs"], generator=generator, dtype=torch.float64)
    projection = torch.randn(config["inputs"], config["outputs"], generator=generator, dtype=torch.float64)
    return Problem(
        widths=(config["inputs"], *[config["units"]] * hidden_layers, config["outputs"]),
        activation=getattr(F, config["activation"]),
        multiplies=config["rule"] == repr(lb.Exact()),
        inputs=inputs,
        targets=(inputs @ projection).sin(),
    )


def initial(widths: Sequence[int], seed: int, scale: float) -> Tensor:
    """PyTorch's own initialisation times a factor: (P,) float64."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = mlp(widths, nn.Identity)
    return scale * torch.cat([each.detach().flatten() for each in layers.parameters()]).double()


def _measured(problem: Problem, parameters: Tensor) -> dict[str, list[float | None]]:
    lines = [_of_one(problem, each) for each in parameters]
    return {name: [line[name] if math.isfinite(line[name]) else None for line in lines] for name in lines[0]}


def _of_one(problem: Problem, parameters: Tensor) -> dict[str, float]:
    exact, slopes = jacobian(problem, parameters), problem.mean_slopes(parameters)
    deviation = (exact - by_differences(problem, parameters)).abs().max() / exact.abs().max()
    # A layer of dead units multiplies what lies below by 0, and nothing is left to compare.
    rescaled = asymmetry(slopes[:, None] * exact) if slopes.all() else torch.tensor(math.nan)
    return {
        "loss": float(problem.loss(parameters)),
        "asymmetry": float(asymmetry(exact)),
        "rescaled": float(rescaled),
        "differences": float(deviation),
    }
