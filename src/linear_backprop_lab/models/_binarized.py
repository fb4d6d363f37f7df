"""Binarized layers: weights and inputs of +-1 in the forward pass, straight-through in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb

from ._initialization import he


def _sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1 (Courbariaux et al., 2016, equation 1)."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


# A straight-through of its own: `convert` and `backward_rule` leave it alone, for `_sign` is in no catalogue. The
# cotangent passes unclipped, as in the published code: what clips it is the hard tanh in front, under its rule.
binarize = lb.with_rule(_sign, lb.Linear())


class BinarizedConv2d(nn.Conv2d):
    """A convolution without bias of binarized inputs with binarized weights.

    `weight` holds the latent weights, which the optimizer moves and `latent_weights` finds.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Height and width of the kernel, odd; the padding keeps the size at stride 1.
        stride: Of the convolution.
        binarize_inputs: False in a network's first layer, which sees the image as it is.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, binarize_inputs: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.binarize_inputs = binarize_inputs
        he(self)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        seen = binarize(input) if self.binarize_inputs else input
        return F.conv2d(seen, binarize(self.weight), stride=self.stride, padding=self.padding)


class BinarizedLinear(nn.Linear):
    """A linear layer of binarized inputs with binarized weights; the bias is not binarized."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return F.linear(binarize(input), binarize(self.weight), self.bias)


def latent_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are binarized in the forward pass; training keeps them in [-1, 1].

    Source:
        Courbariaux et al. (2016), algorithm 1: W <- clip(update(W), -1, 1).
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BinarizedConv2d | BinarizedLinear)]
    return [layer.weight for layer in layers]
