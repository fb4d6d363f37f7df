"""One run on images, made from its configuration alone: data, model, rule, training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import DataError, ImageDataset, load_images
from linear_backprop_lab.records import Run
from linear_backprop_lab.training import Recipe, train

from ._building import build_model, training_device
from ._job import Job, OnStep


def image_job(root: Path, config: Mapping[str, Any], data: Path | None, download: bool) -> Job:
    """The job of a configuration; it holds no images, so that it travels to other processes.

    Runs that differ in the rule alone start from the same weights and see the same images in the same order.

    Args:
        root: The folder all records lie in.
        config: `experiment`; `data`, the name of the data set; `train_images` and `test_images`, how many of
            it; `model`, as `build_model` takes it; `rule`; `recipe`, the arguments of `Recipe`.
        data: The folder of CIFAR-10; None to look for it.
        download: Whether it may be downloaded.
    """
    run = Run(root, config)
    steps = Recipe(**run.config["recipe"]).steps(run.config["train_images"])
    return Job(run=run, label=_label(run.config), steps=steps, perform=partial(_perform, run, data, download))


def _label(config: Mapping[str, Any]) -> str:
    model, recipe = config["model"], config["recipe"]
    normalized = "with" if model["batch_norm"] else "without"
    return (
        f"{config['data']}, {model['activation']}, {normalized} batch norm, lr {recipe['learning_rate']:g}, "
        f"{config['rule']}"
    )


def _perform(run: Run, data: Path | None, download: bool, on_step: OnStep) -> None:
    config = run.config
    recipe = Recipe(**config["recipe"])
    images = images_of(config, load_images(data, download=download), recipe.seed)
    model = build_model(config["model"], recipe.seed)
    lb.convert(model, lb.rule_from_name(config["rule"]))
    train(model, images, recipe, run, device=training_device(), on_step=on_step)


def images_of(config: Mapping[str, Any], found: ImageDataset, seed: int) -> ImageDataset:
    """The part of the images found that a configuration is about.

    Raises:
        DataError: They are of another data set.
    """
    if found.name != config["data"]:
        raise DataError(
            f"the run is on {config['data']}, but what was found is {found.source}; name its folder with --data"
        )
    return found.subset(config["train_images"], config["test_images"], seed=seed)
