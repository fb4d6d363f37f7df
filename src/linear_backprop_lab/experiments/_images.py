"""VGG19 with tanh on small images: Backprop against Linear Backprop, a few epochs (after figure 2)."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run
from linear_backprop_lab.training import Recipe, train

from ._building import build_model, training_device
from ._job import Job, OnStep

NAME = "images"

_RULES = (lb.Exact(), lb.Linear())
_TRAIN_IMAGES, _TEST_IMAGES = 3840, 1000
_MODEL = {"name": "vgg19", "width": 0.125, "activation": "Tanh", "pooling": "max"}
_LEARNING_RATES = (0.002, 0.02)
_EPOCHS = 4


def images_jobs(root: Path, data: ImageDataset) -> list[Job]:
    """The runs of the experiment: with and without batch normalization, both rules, each learning rate.

    The paper chooses the learning rate for each rule; so can the report. Runs that differ in the rule
    alone start from the same weights and see the same images in the same order.

    Args:
        root: The folder all records lie in.
        data: CIFAR-10, or digits in its place; the configurations differ in its name alone.
    """
    grid = itertools.product((True, False), _LEARNING_RATES, _RULES)
    return [_job(root, data, _config(data, *settings)) for settings in grid]


def _config(data: ImageDataset, batch_norm: bool, learning_rate: float, rule: lb.BackwardRule) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "data": data.name,
        "train_images": min(_TRAIN_IMAGES, len(data.train_images)),
        "test_images": min(_TEST_IMAGES, len(data.test_images)),
        "model": {**_MODEL, "batch_norm": batch_norm, "classes": len(data.classes)},
        "rule": repr(rule),
        "recipe": asdict(Recipe(epochs=_EPOCHS, learning_rate=learning_rate, augment=False)),
    }


def _job(root: Path, data: ImageDataset, config: dict[str, Any]) -> Job:
    run = Run(root, config)
    recipe = Recipe(**config["recipe"])
    normalized = "with" if config["model"]["batch_norm"] else "without"
    return Job(
        run=run,
        label=f"{data.name}, {normalized} batch norm, lr {recipe.learning_rate:g}, {config['rule']}",
        steps=recipe.steps(config["train_images"]),
        perform=partial(_perform, run, data, recipe),
    )


def _perform(run: Run, data: ImageDataset, recipe: Recipe, on_step: OnStep) -> None:
    config = run.config
    subset = data.subset(config["train_images"], config["test_images"], seed=recipe.seed)
    model = build_model(config["model"], recipe.seed)
    lb.convert(model, lb.rule_from_name(config["rule"]))
    train(model, subset, recipe, run, device=training_device(), on_step=on_step)
