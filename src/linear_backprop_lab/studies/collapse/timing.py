"""What a training step of every method costs, all methods of a model taking turns in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Plan
from linear_backprop_lab.studies.images.building import build_model, training_device
from linear_backprop_lab.timing import Timed, medians, seconds
from linear_backprop_lab.training import Recipe

from .cases import cases
from .methods import method_named

NAME = "collapse-timing"

_ROUNDS = 25


def timing_plan(place: Place, scale: Scale) -> Plan:
    """One run that times every method of every case; it means something on an otherwise idle machine alone.

    A line of metrics a model: `model`, `batch_size`, and `seconds`, by method the median over the rounds of what a
    step takes: forward, cross-entropy, backward and the optimizer's step on a batch that is in memory, drawn at random.
    """
    models = [{"model": case.model, "methods": case.methods, "recipe": asdict(case.recipe)} for case in cases(scale)]
    rounds = 1 if scale is Scale.SMOKE else _ROUNDS
    return Plan([{"experiment": NAME, "part": "timing", "rounds": rounds, "cases": models}])


def timing_job(run: Run, place: Place) -> Job:
    """The job of a run of `timing_plan`; it needs no images."""
    count = len(run.config["cases"])
    return Job(run, f"timing: {count} models, methods in turns", count, partial(_perform, run))


def _perform(run: Run, on_step: OnStep) -> None:
    begin = time.perf_counter()
    run.start()
    for number, case in enumerate(run.config["cases"], start=1):
        recipe = Recipe(**case["recipe"])
        steps = {method: _step(case["model"], method, recipe) for method in case["methods"]}
        found = medians(steps, run.config["rounds"])
        run.log(model=case["model"], batch_size=recipe.batch_size, seconds=found)
        on_step(number)
    run.close(seconds=time.perf_counter() - begin)


def _step(model: Mapping[str, Any], method: str, recipe: Recipe) -> Timed:
    """One training step, laid out in memory as the training loop does; at the recipe's rate of 0 it changes nothing."""
    device = training_device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    built = build_model(model, recipe.seed).to(device)
    built.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    trained = method_named(method)(built).train()
    optimizer = recipe.optimizer_for(trained)
    generator = torch.Generator().manual_seed(recipe.seed)
    images = torch.randn(recipe.batch_size, 3, 32, 32, generator=generator)
    images = images.to(device).contiguous(memory_format=layout)
    labels = torch.randint(10, (recipe.batch_size,), generator=generator).to(device)

    def step() -> None:
        loss = F.cross_entropy(trained(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return partial(seconds, step)
