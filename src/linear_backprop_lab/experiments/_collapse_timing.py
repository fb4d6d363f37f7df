"""What a training step of every method costs, all methods of a model taking turns in one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from linear_backprop_lab.records import Run
from linear_backprop_lab.timing import Timed, medians, seconds
from linear_backprop_lab.training import Recipe

from ._building import build_model, training_device
from ._collapse import CASES, NAME, Case
from ._job import Job, OnStep
from ._methods import method_named

_ROUNDS = 25


def timing_jobs(root: Path, cases: Sequence[Case] = CASES, rounds: int = _ROUNDS) -> list[Job]:
    """One run that times every method of every case; it means something on an otherwise idle machine alone.

    A line of metrics a model: `model`, `batch_size` and `seconds`, the median seconds of a step by method. A step
    is forward, cross-entropy, backward and the optimizer's step on a batch that is in memory.
    """
    settings = [{"model": case.model, "batch_size": case.recipe.batch_size, "methods": case.methods} for case in cases]
    run = Run(root, {"experiment": NAME, "part": "timing", "rounds": rounds, "cases": settings})
    recipes = [case.recipe for case in cases]
    return [Job(run, f"timing: {len(cases)} models in turns", len(cases), partial(_perform, run, recipes))]


def _perform(run: Run, recipes: Sequence[Recipe], on_step: OnStep) -> None:
    begin = time.perf_counter()
    run.start()
    for number, (case, recipe) in enumerate(zip(run.config["cases"], recipes, strict=True), start=1):
        steps = {method: _step(case["model"], method, recipe) for method in case["methods"]}
        run.log(model=case["model"], batch_size=recipe.batch_size, seconds=medians(steps, run.config["rounds"]))
        on_step(number)
    run.close(seconds=time.perf_counter() - begin)


def _step(model: dict[str, Any], method: str, recipe: Recipe) -> Timed:
    """One training step, which changes nothing: the learning rate is 0."""
    device = training_device()
    trained: nn.Module = method_named(method)(build_model(model, recipe.seed)).to(device).train()
    optimizer = replace(recipe, learning_rate=0.0).optimizer_for(trained)
    generator = torch.Generator().manual_seed(recipe.seed)
    images = torch.randn(recipe.batch_size, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(10, (recipe.batch_size,), generator=generator).to(device)

    def step() -> None:
        loss = F.cross_entropy(trained(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return partial(seconds, step)
