"""A residual convnet for CIFAR-10 that is affine between its activations: average pooling, constant statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from ._constant_statistics import ConstantBatchNorm2d
from ._initialization import he

Normalization = Literal["constant", "batch", "none"]


def residual(
    widths: Sequence[int] = (16, 32, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    blocks: int = 1,
    normalization: Normalization = "constant",
    classes: int = 10,
) -> nn.Sequential:
    """Build a convolution, stages of residual blocks with 2 x 2 average pooling between them, and a linear layer.

    A block is `activation(x + branch(x))`, its branch two 3 x 3 convolutions, each with its normalization, and an
    activation between them; where the number of channels changes, a 1 x 1 convolution takes the place of x.
    Weights of convolutions are drawn from N(0, 2 / fan_out) (He et al., 2015). Without normalization the last
    convolution of every branch starts at 0, so that a block starts as its shortcut.

    Args:
        widths: Channels of each stage.
        activation: Makes one activation module; called once an activation.
        blocks: Residual blocks in a stage.
        normalization: "constant", for `ConstantBatchNorm2d`; "batch", for PyTorch's, whose training mode does not
            collapse; or "none".
        classes: C, the number of outputs.

    Returns:
        `nn.Sequential(stem, stage1, ..., pool, flatten, classifier)`, float32: (N, 3, 32, 32) -> (N, classes).

    Raises:
        ValueError: `normalization` is unknown, or a number is not positive.
    """
    if normalization not in _NORMALIZATIONS:
        raise ValueError(f"unknown normalization {normalization!r}; use one of {', '.join(map(repr, _NORMALIZATIONS))}")
    if not widths or min(*widths, blocks, classes) < 1:
        raise ValueError(f"widths, blocks and classes must be positive, got {tuple(widths)}, {blocks}, {classes}")
    normalize = _NORMALIZATIONS[normalization]
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(_convolution(3, widths[0], 3), normalize(widths[0]), activation()))
    inputs = widths[0]
    for number, channels in enumerate(widths, start=1):
        stage = nn.Sequential(nn.AvgPool2d(2) if number > 1 else nn.Identity())
        for _ in range(blocks):
            stage.append(ResidualBlock(inputs, channels, activation, normalize))
            inputs = channels
        model.add_module(f"stage{number}", stage)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Linear(inputs, classes))
    return model


class ResidualBlock(nn.Module):
    """`activation(shortcut(x) + branch(x))`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Callable[[], nn.Module],
        normalize: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        last = _convolution(outputs, outputs, 3)
        normalization = normalize(outputs)
        if isinstance(normalization, nn.Identity):
            nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            _convolution(inputs, outputs, 3), normalize(outputs), activation(), last, normalization
        )
        self.shortcut = nn.Identity() if inputs == outputs else _convolution(inputs, outputs, 1)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        return self.activation(self.shortcut(x) + self.branch(x))


def _convolution(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return he(nn.Conv2d(inputs, outputs, size, padding=size // 2))


def _no_normalization(channels: int) -> nn.Module:
    return nn.Identity()


_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "constant": ConstantBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "none": _no_normalization,
}
