"""VGG19 with tanh on small images: Backprop against Linear Backprop, a few epochs (after figure 2)."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images
from linear_backprop_lab.studies._job import Job
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies.images.run import image_job
from linear_backprop_lab.training import Recipe

NAME = "images"

_RULES = (lb.Exact(), lb.Linear())
_LEARNING_RATES = (0.002, 0.02)


class _Size(NamedTuple):
    train_images: int
    test_images: int
    width: float
    epochs: int


_WHOLE = _Size(train_images=3840, test_images=1000, width=1 / 8, epochs=4)
_SMOKE = _Size(train_images=64, test_images=32, width=1 / 32, epochs=1)


def images_jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
    """The runs of the experiment: with and without batch normalization, both rules, each learning rate.

    The paper chooses the learning rate for each rule; so can the report.

    Args:
        root: The folder all records lie in.
        scale: The comparison is of one size, but for the smallest scale.
        data: The folder of CIFAR-10; None to look for it, and to take digits in its place.
        download: Whether it may be downloaded.
    """
    found = load_images(data, download=download)
    grid = itertools.product((True, False), _LEARNING_RATES, _RULES)
    size = _SMOKE if scale is Scale.SMOKE else _WHOLE
    return [image_job(root, _config(size, found, *settings), data, download) for settings in grid]


def _config(
    size: _Size, data: ImageDataset, batch_norm: bool, learning_rate: float, rule: lb.BackwardRule
) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "data": data.name,
        "train_images": min(size.train_images, len(data.train_images)),
        "held_out_images": 0,
        "test_images": min(size.test_images, len(data.test_images)),
        "model": {
            "name": "vgg19",
            "width": size.width,
            "activation": "Tanh",
            "pooling": "max",
            "batch_norm": batch_norm,
            "classes": len(data.classes),
        },
        "rule": repr(rule),
        "recipe": asdict(Recipe(epochs=size.epochs, learning_rate=learning_rate, augment=False)),
    }
