"""The binarized ResNet-18 for CIFAR-10 that the paper's section 1.2 trains."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ._binarized import BinarizedConv2d, BinarizedLinear

Activation = Callable[[], nn.Module]

_CHANNELS = (16, 32, 64)


class _Block(nn.Module):
    """Two convolutions and a shortcut; it gives what is normalized and squashed, but in the last block.

    Where the block narrows the image or widens the channels, the shortcut is a binarized 1 x 1 convolution
    with batch normalization.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation, last: bool) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            BinarizedConv2d(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            activation(),
            BinarizedConv2d(outputs, outputs),
        )
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(BinarizedConv2d(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs))
            if changes
            else nn.Identity()
        )
        self.finish = nn.Identity() if last else nn.Sequential(nn.BatchNorm2d(outputs), activation())

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.residual(x) + self.shortcut(x))


def binarized_resnet18(inflate: int = 5, activation: Activation = nn.Hardtanh, *, classes: int = 10) -> nn.Sequential:
    """Build the binarized ResNet-18 for images of 32 x 32: three stages of two blocks.

    The stages have 16, 32 and 64 channels times `inflate`, and halve the image from the second on. Average
    pooling leaves one position; batch normalization, the activation, a binarized linear layer and a last batch
    normalization follow. Weights and inputs of every convolution and of the linear layer are binarized, but for
    the image. With `inflate=5` there are 4,337,390 parameters.

    Args:
        inflate: Factor on the number of channels.
        activation: Makes one activation module; called once an activation. It is what a rule is put on.
        classes: C, the number of outputs.

    Returns:
        float32 (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: `inflate` or `classes` is not positive.

    Source:
        Courbariaux et al. (2016); structure and initialisation as published by Hubara (2018),
        https://github.com/itayhubara/BinaryNet.pytorch, `models/resnet_binary.py`, without the batch normalization
        that its last block holds and never runs.
    """
    if inflate < 1 or classes < 1:
        raise ValueError(f"inflate and classes must be positive, got inflate={inflate}, classes={classes}")
    first, second, third = (channels * inflate for channels in _CHANNELS)
    model = nn.Sequential()
    model.add_module(
        "stem",
        nn.Sequential(BinarizedConv2d(3, first, binarize_inputs=False), nn.BatchNorm2d(first), activation()),
    )
    model.add_module("stage1", _stage(first, first, 1, activation))
    model.add_module("stage2", _stage(first, second, 2, activation))
    model.add_module("stage3", _stage(second, third, 2, activation, last=True))
    model.add_module("pooling", nn.Sequential(nn.AvgPool2d(8), nn.Flatten()))
    model.add_module(
        "classifier",
        nn.Sequential(nn.BatchNorm1d(third), activation(), BinarizedLinear(third, classes), nn.BatchNorm1d(classes)),
    )
    return model


def _stage(inputs: int, outputs: int, stride: int, activation: Activation, last: bool = False) -> nn.Sequential:
    return nn.Sequential(
        _Block(inputs, outputs, stride, activation, last=False), _Block(outputs, outputs, 1, activation, last=last)
    )
