"""Small convnets for CIFAR-10 of other kinds than VGG19: plain, of bottleneck blocks, of inverted residual blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from ._initialization import he

Activation = Callable[[], nn.Module]


def plain(
    widths: Sequence[int] = (32, 64, 64, 64), activation: Activation = nn.ReLU, *, classes: int = 10
) -> nn.Sequential:
    """Build a shallow convnet: for each width a 3 x 3 convolution, batch normalization, an activation, 2 x 2 pooling.

    Args:
        widths: Channels of each convolution; at most five, since each halves the image.
        activation: Makes one activation module; called once an activation.
        classes: C, the number of outputs.

    Returns:
        `nn.Sequential(features, pool, flatten, classifier)`, float32: (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: There are no widths or more than five, or a number is not positive.
    """
    if not 1 <= len(widths) <= 5 or min(*widths, classes) < 1:
        raise ValueError(f"give one to five positive widths, and positive classes; got {tuple(widths)}, {classes}")
    model, features = nn.Sequential(), nn.Sequential()
    for inputs, outputs in itertools.pairwise((3, *widths)):
        features.extend((*_normalized(inputs, outputs, 3), activation(), nn.MaxPool2d(2)))
    model.add_module("features", features)
    return _headed(model, widths[-1], classes)


def bottleneck(
    widths: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (2, 3, 3),
    activation: Activation = nn.ReLU,
    *,
    classes: int = 10,
) -> nn.Sequential:
    """Build a residual network of bottleneck blocks, each of which runs one activation module three times.

    The stem is a 3 x 3 convolution of 32 channels and a 2 x 2 max pooling. A block is 1 x 1, 3 x 3 and 1 x 1
    convolutions of w, w and 4 w channels, each with batch normalization; the shortcut is added before the last
    activation. Stages from the second on halve the image. Source: He et al. (2016), section 4.1.

    Args:
        widths: w of each stage.
        blocks: Blocks of each stage.
        activation: Makes one activation module; called once a block.
        classes: C, the number of outputs.

    Returns:
        `nn.Sequential(stem, layer1, ..., pool, flatten, classifier)`, float32: (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: There are not as many widths as numbers of blocks, or one is not positive.
    """
    if len(widths) != len(blocks) or not widths or min(*widths, *blocks, classes) < 1:
        raise ValueError(
            f"widths and blocks must be as many and positive, got {tuple(widths)}, {tuple(blocks)}, {classes} classes"
        )
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(*_normalized(3, 32, 3), activation(), nn.MaxPool2d(2)))
    outputs = [4 * width for width in widths]
    _add_stages(model, "layer", 32, outputs, blocks, partial(Bottleneck, activation=activation))
    return _headed(model, outputs[-1], classes)


class Bottleneck(nn.Module):
    """`relu(shortcut(x) + branch(x))`, the same `relu` twice in the branch."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        width = outputs // 4
        self.first = nn.Sequential(*_normalized(inputs, width, 1))
        self.second = nn.Sequential(*_normalized(width, width, 3, stride=stride))
        self.third = nn.Sequential(*_normalized(width, outputs, 1))
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*_normalized(inputs, outputs, 1, stride=stride)) if changes else nn.Identity()
        self.relu = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        h = self.relu(self.first(x))
        h = self.relu(self.second(h))
        return self.relu(self.third(h) + self.shortcut(x))


def inverted_residual(
    widths: Sequence[int] = (16, 32, 64),
    activation: Activation = nn.ReLU6,
    *,
    blocks: int = 2,
    expansion: int = 3,
    classes: int = 10,
) -> nn.Sequential:
    """Build a small MobileNetV2: a strided stem, stages of inverted residual blocks, depthwise convolutions in them.

    A block is a 1 x 1 convolution to `expansion` times the channels, a 3 x 3 depthwise one and a 1 x 1 one back, each
    with batch normalization, activations after the first two; x is added where its shape is kept. Stages from the
    second on halve the image. Source: Sandler et al. (2018), section 3.3.

    Args:
        widths: Channels of each stage.
        activation: Makes one activation module; called once an activation.
        blocks: Blocks in a stage.
        expansion: Factor on the channels inside a block.
        classes: C, the number of outputs.

    Returns:
        `nn.Sequential(stem, stage1, ..., pool, flatten, classifier)`, float32: (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: A number is not positive.
    """
    if not widths or min(*widths, blocks, expansion, classes) < 1:
        raise ValueError(
            f"widths, blocks, expansion and classes must be positive, got {tuple(widths)}, {blocks}, {expansion}, "
            f"{classes}"
        )
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(*_normalized(3, widths[0], 3, stride=2), activation()))
    block = partial(InvertedResidual, expansion=expansion, activation=activation)
    _add_stages(model, "stage", widths[0], widths, [blocks] * len(widths), block)
    return _headed(model, widths[-1], classes)


class InvertedResidual(nn.Module):
    """`branch(x)`, plus x where its shape is kept."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, activation: Activation) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.branch = nn.Sequential(
            *_normalized(inputs, hidden, 1),
            activation(),
            *_normalized(hidden, hidden, 3, stride=stride, groups=hidden),
            activation(),
            *_normalized(hidden, outputs, 1),
        )
        self.keeps = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return x + self.branch(x) if self.keeps else self.branch(x)


def _normalized(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return he(convolution), nn.BatchNorm2d(outputs)


def _add_stages(
    model: nn.Sequential,
    name: str,
    inputs: int,
    outputs: Sequence[int],
    blocks: Sequence[int],
    block: Callable[[int, int, int], nn.Module],
) -> None:
    """Add `<name>1`, ..., stages of blocks of (inputs, outputs, stride); from the second on they halve the image."""
    for number, (channels, count) in enumerate(zip(outputs, blocks, strict=True), start=1):
        stage = nn.Sequential()
        for stride in (1 if number == 1 else 2, *[1] * (count - 1)):
            stage.append(block(inputs, channels, stride))
            inputs = channels
        model.add_module(f"{name}{number}", stage)


def _headed(model: nn.Sequential, features: int, classes: int) -> nn.Sequential:
    """The model with the mean over positions and a linear layer at its end."""
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(features, classes))
    return model
