"""VGG19 in its CIFAR form: sixteen 3 x 3 convolutions in five blocks, then one linear layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

from torch import nn

from ._initialization import he, xavier

Pooling = Literal["max", "average"]
Initialization = Literal["he", "xavier", "default"]

# Channels of the convolutions of configuration E of Simonyan and Zisserman (2014), table 1, a block a row.
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
_POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
_INITIALIZATIONS: dict[str, Callable[[nn.Conv2d], nn.Conv2d]] = {
    "he": he,
    "xavier": xavier,
    "default": lambda convolution: convolution,
}


def vgg19(
    width: float = 1.0,
    activation: Callable[[], nn.Module] = nn.Tanh,
    *,
    batch_norm: bool = True,
    pooling: Pooling = "max",
    initialization: Initialization = "he",
    classes: int = 10,
) -> nn.Sequential:
    """Build the VGG19 that the paper's section 1.2 trains, for images of 32 x 32.

    A block is (convolution, [batch normalization,] activation) two or four times, then a 2 x 2 pooling;
    after five blocks one position is left, and a linear layer reads its `512 * width` features. With
    batch normalization and `width=1` there are 20,040,522 parameters.

    Args:
        width: Factor on the number of channels of every convolution, rounded, at least 1.
        activation: Makes one activation module; called once an activation.
        batch_norm: Whether batch normalization stands between a convolution and its activation.
        pooling: What ends a block, `"max"` or `"average"`.
        initialization: Of the convolutions. `"he"`: weights from N(0, 2 / fan_out) (He et al., 2015), biases 0;
            `"xavier"`: weights from U(-b, b), b^2 = 6 / (fan_in + fan_out) (Glorot and Bengio, 2010), biases 0;
            `"default"`: PyTorch's, both from U(-b, b), b^2 = 1 / fan_in. The linear layer keeps PyTorch's always.
        classes: C, the number of outputs.

    Returns:
        `nn.Sequential(features, flatten, classifier)`, float32: (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: `pooling` or `initialization` is unknown, or `width` or `classes` is not positive.
    """
    for what, given, known in (
        ("pooling", pooling, _POOLINGS),
        ("initialization", initialization, _INITIALIZATIONS),
    ):
        if given not in known:
            raise ValueError(f"unknown {what} {given!r}; use one of {', '.join(map(repr, known))}")
    if width <= 0 or classes < 1:
        raise ValueError(f"width and classes must be positive, got width={width}, classes={classes}")
    blocks = [[max(1, round(channels * width)) for channels in block] for block in _BLOCKS]
    inputs = itertools.chain([3], itertools.chain.from_iterable(blocks))
    initialize = _INITIALIZATIONS[initialization]
    features = nn.Sequential()
    for block in blocks:
        for channels in block:
            features.append(initialize(nn.Conv2d(next(inputs), channels, kernel_size=3, padding=1)))
            if batch_norm:
                features.append(nn.BatchNorm2d(channels))
            features.append(activation())
        features.append(_POOLINGS[pooling](2))
    model = nn.Sequential()
    model.add_module("features", features)
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(blocks[-1][-1], classes))
    return model
