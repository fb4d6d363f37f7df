"""The binarized ResNet-18 with hard tanh on CIFAR-10, over the paper's sweep."""

from __future__ import annotations

from dataclasses import replace

import linear_backprop as lb
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Plan
from linear_backprop_lab.studies.images.sweep import SIZES, Staged, grid

NAME = "bnn"

_SIZES = {
    Scale.SMOKE: replace(SIZES[Scale.SMOKE], penalties=(1e-4,)),
    # At 1 the signs of latent weights change.
    Scale.CPU: replace(SIZES[Scale.CPU], train_images=3072, learning_rates=(10.0, 1.0, 1e-1), penalties=(1e-2, 1e-4)),
    Scale.PAPER: SIZES[Scale.PAPER],
}
_INFLATIONS = {Scale.SMOKE: 1, Scale.CPU: 1, Scale.PAPER: 5}


def plan(place: Place, scale: Scale) -> Plan:
    """Hard tanh under both rules, swept, then each at its best with further seeds; binarization is straight-through."""
    model = {"name": "binarized-resnet18", "inflate": _INFLATIONS[scale], "activation": "Hardtanh"}
    size = _SIZES[scale]
    swept = grid(NAME, size, place.images(), [model], (lb.Exact(), lb.Linear()))
    return Staged(swept=swept, seeds=range(1, size.seeds), metric="top5_error").plan(place.root)
