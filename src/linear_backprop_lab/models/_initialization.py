"""How the weights of convolutions are drawn."""

from __future__ import annotations

from torch import nn


def he(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution, its weights drawn from N(0, 2 / fan_out), its biases 0 (He et al., 2015)."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return _with_zero_bias(convolution)


def xavier(convolution: nn.Conv2d) -> nn.Conv2d:
    """Its weights from U(-b, b), b^2 = 6 / (fan_in + fan_out), its biases 0 (Glorot and Bengio, 2010)."""
    nn.init.xavier_uniform_(convolution.weight)
    return _with_zero_bias(convolution)


def _with_zero_bias(convolution: nn.Conv2d) -> nn.Conv2d:
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
