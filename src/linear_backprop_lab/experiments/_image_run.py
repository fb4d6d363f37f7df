"""One run on images, made from its configuration alone: data, model, rule, training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.data import DataError, ImageDataset, load_images
from linear_backprop_lab.models import vgg19
from linear_backprop_lab.records import Run
from linear_backprop_lab.training import Recipe, train

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


def build_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The model of a configuration, its weights drawn from `seed`.

    Args:
        config: `name`, `activation` (a class of `torch.nn`), and the other arguments of the model's function.
        seed: Of the initial weights.
    """
    settings = {key: value for key, value in config.items() if key not in ("name", "activation")}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return vgg19(activation=getattr(nn, config["activation"]), **settings)


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
    images = _images(config, load_images(data, download=download), recipe.seed)
    model = build_model(config["model"], recipe.seed)
    lb.convert(model, lb.rule_from_name(config["rule"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train(model, images, recipe, run, device=device, on_step=on_step)


def _images(config: Mapping[str, Any], found: ImageDataset, seed: int) -> ImageDataset:
    if found.name != config["data"]:
        raise DataError(
            f"the run is on {config['data']}, but what was found is {found.source}; name its folder with --data"
        )
    return found.subset(config["train_images"], config["test_images"], seed=seed)
