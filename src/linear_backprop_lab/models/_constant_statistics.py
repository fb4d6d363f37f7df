"""Batch normalization whose statistics are set once, before training: affine in each sample."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class _Constant(nn.Module):
    """Stays in eval mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)


class ConstantBatchNorm1d(_Constant, nn.BatchNorm1d):
    """Batch normalization in eval mode, always: its statistics are those `calibrate` set, at first 0 and 1."""

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self.training = False


class ConstantBatchNorm2d(_Constant, nn.BatchNorm2d):
    """Batch normalization in eval mode, always: its statistics are those `calibrate` set, at first 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.training = False


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Tensor) -> None:
    """Set the statistics of every normalization that is constant to those of a batch, in one pass.

    Args:
        model: Its parameters are left alone.
        inputs: A batch as the model takes it, at least two values a channel everywhere.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, ConstantBatchNorm1d | ConstantBatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.momentum = True, 1.0
        model(inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.training, layer.momentum = False, momentum
