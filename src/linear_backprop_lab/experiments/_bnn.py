"""The binarized ResNet-18 with hard tanh on CIFAR-10, over the paper's sweep."""

from __future__ import annotations

from pathlib import Path

import linear_backprop as lb
from linear_backprop_lab.data import load_images

from ._image_run import image_job
from ._job import Job
from ._scale import Scale
from ._sweep import PAPER_SIZE, Size, at_the_best, grid

NAME = "bnn"

_RULES = (lb.Exact(), lb.Linear())

# The paper's learning rates move nothing within two hundred steps; at 1 the signs of latent weights change.
_SIZES = {
    Scale.SMOKE: Size(
        train_images=64,
        held_out_images=32,
        test_images=32,
        epochs=1,
        learning_rates=(1e-2,),
        penalties=(1e-4,),
        seeds=2,
    ),
    Scale.CPU: Size(
        train_images=3072,
        held_out_images=1000,
        test_images=2000,
        epochs=6,
        learning_rates=(10.0, 1.0, 1e-1),
        penalties=(1e-2, 1e-4),
        seeds=3,
    ),
    Scale.PAPER: PAPER_SIZE,
}
_INFLATIONS = {Scale.SMOKE: 1, Scale.CPU: 1, Scale.PAPER: 5}


def bnn_jobs(root: Path, scale: Scale, data: Path | None, download: bool) -> list[Job]:
    """Hard tanh under both rules, swept, then each at its best with further seeds; binarization is straight-through.

    Args:
        root: The folder all records lie in.
        scale: How large the sweep is.
        data: The folder of CIFAR-10; None to look for it, and to take digits in its place.
        download: Whether it may be downloaded.
    """
    model = {"name": "binarized-resnet18", "inflate": _INFLATIONS[scale], "activation": "Hardtanh"}
    found = load_images(data, download=download)
    size = _SIZES[scale]
    swept = grid(NAME, size, found, [model], _RULES)
    further = at_the_best(root, swept, range(1, size.seeds), size.epochs, "top5_error")
    return [image_job(root, config, data, download) for config in swept + further]


def bnn_size(scale: Scale) -> int:
    """How many runs there are in the end."""
    size = _SIZES[scale]
    return len(_RULES) * (len(size.learning_rates) * len(size.penalties) + size.seeds - 1)
