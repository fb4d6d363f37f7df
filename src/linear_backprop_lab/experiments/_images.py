"""VGG19 with tanh on small images: Backprop against Linear Backprop, a few epochs (after figure 2)."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images
from linear_backprop_lab.training import Recipe

from ._image_run import image_job
from ._job import Job
from ._scale import Scale

NAME = "images"

_RULES = (lb.Exact(), lb.Linear())
_TRAIN_IMAGES, _TEST_IMAGES = 3840, 1000
_MODEL = {"name": "vgg19", "width": 0.125, "activation": "Tanh", "pooling": "max"}
_LEARNING_RATES = (0.002, 0.02)
_EPOCHS = 4


def images_jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
    """The runs of the experiment: with and without batch normalization, both rules, each learning rate.

    The paper chooses the learning rate for each rule; so can the report.

    Args:
        root: The folder all records lie in.
        scale: This comparison has one size.
        data: The folder of CIFAR-10; None to look for it, and to take digits in its place.
        download: Whether it may be downloaded.
    """
    found = load_images(data, download=download)
    grid = itertools.product((True, False), _LEARNING_RATES, _RULES)
    return [image_job(root, _config(found, *settings), data, download) for settings in grid]


def _config(data: ImageDataset, batch_norm: bool, learning_rate: float, rule: lb.BackwardRule) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "data": data.name,
        "train_images": min(_TRAIN_IMAGES, len(data.train_images)),
        "held_out_images": 0,
        "test_images": min(_TEST_IMAGES, len(data.test_images)),
        "model": {**_MODEL, "batch_norm": batch_norm, "classes": len(data.classes)},
        "rule": repr(rule),
        "recipe": asdict(Recipe(epochs=_EPOCHS, learning_rate=learning_rate, augment=False)),
    }
