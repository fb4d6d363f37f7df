"""The binarized ResNet-18 with hard tanh on CIFAR-10, over the paper's sweep."""

from __future__ import annotations

import linear_backprop as lb
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Plan
from linear_backprop_lab.studies.images.sweep import PAPER_SIZE, Size, Staged, grid

NAME = "bnn"

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


def plan(place: Place, scale: Scale) -> Plan:
    """Hard tanh under both rules, swept, then each at its best with further seeds; binarization is straight-through."""
    model = {"name": "binarized-resnet18", "inflate": _INFLATIONS[scale], "activation": "Hardtanh"}
    size = _SIZES[scale]
    swept = grid(NAME, size, place.images(), [model], (lb.Exact(), lb.Linear()))
    return Staged(swept=swept, seeds=range(1, size.seeds), epochs=size.epochs, metric="top5_error").plan(place.root)
