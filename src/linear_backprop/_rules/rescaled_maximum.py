"""Max pooling under DeepLIFT.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h; `a0` and `h0` are those of the
baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .._call import Call
from .._torch.functions import Function
from .attribution import difference, keep_distance
from .layers import WINDOW_ARGUMENTS, AveragedMaximum
from .rule import Arguments, LayerRule

_WITH_INDICES = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_ADAPTIVE_WITH_INDICES = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
# Kernels of adaptive pooling return indices, too.
_ALWAYS_WITH_INDICES = frozenset(
    function
    for function in AveragedMaximum.arguments
    if function.__name__.removesuffix(".default").endswith("_with_indices")
    or (function.__name__.startswith("adaptive") and function not in _ADAPTIVE_WITH_INDICES)
)


@dataclass(frozen=True)
class RescaledMaximum(LayerRule):
    """Max pooling whose backward pass is DeepLIFT's: the difference of two maxima, put where the larger one stands.

    The batch holds inputs in its first half and their baselines in its second, as for `Rescale`. Of each window, one
    position p receives g * (h - h0) / (a[p] - a0[p]): that of the input's maximum where h >= h0, that of the baseline's
    where h < h0, so that the multiplier lies between 0 and 1; in both halves alike. What a window sends, times a - a0,
    is g * (h - h0); windows may overlap. Where |a[p] - a0[p]| <= epsilon it is g, as it is where the difference is NaN.
    At ties it is PyTorch's choice of maximum. A window with no position inside, which dilation can make, sends nothing.
    Source: Shrikumar et al. (2017), section 3.5.2, and the authors' program, which divides in this way.

    Args:
        epsilon: The distance up to which the multiplier is 1.

    Raises:
        LinearBackpropError: epsilon is no number, or negative; at the forward pass: the batch has no two halves.

    Examples:
        >>> pair = torch.tensor([[1.0, 4.0], [2.0, 0.0]], requires_grad=True)  # an input and its baseline
        >>> with lb.backward_rule(layers=[lb.RescaledMaximum()]):
        ...     F.max_pool1d(pair[:, None], 2).sum().backward()
        >>> pair.grad  # (4 - 2) / (4 - 0)
        tensor([[0.0000, 0.5000],
                [0.0000, 0.5000]])
    """

    formula = "g * (h - h0) / (a - a0) at the larger of the two maxima"
    source = "DeepLIFT; Shrikumar et al. (2017)"
    modules = AveragedMaximum.modules
    arguments: ClassVar[dict[Function, Arguments]] = AveragedMaximum.arguments

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        keep_distance(self, "epsilon")

    def constants(self, call: Call) -> tuple[Tensor, ...]:
        """The position in each window that receives g, counted over all dimensions, and its multiplier."""
        return self.run(call)[1]

    def run(self, call: Call) -> tuple[Any, tuple[Tensor, ...]]:
        """The call's own result, and the constants, from one pooling."""
        given = self.bound(call)
        with torch.no_grad():
            a: Tensor = call.input.detach()
            h, own = _maxima(a, given)
            constants = self._multipliers(a, h, own.clamp(min=0), given["dims"])  # no position inside: less than 0
        returns_both = given["return_indices"] or call.function in _ALWAYS_WITH_INDICES
        return (h, own) if returns_both else h, constants

    def _multipliers(self, a: Tensor, h: Tensor, own: Tensor, dims: int) -> tuple[Tensor, Tensor]:
        rise = difference(h, self)
        first, second = own.chunk(2)
        position = torch.where(rise >= 0, first, second)
        both = torch.cat([position, position])
        distance = difference(_taken(a, both, dims), self)
        near = ~(distance.abs() > self.epsilon)
        multiplier = (rise / distance).masked_fill(near, 1.0)
        multiplier = torch.cat([multiplier, multiplier]).masked_fill(h == -torch.inf, 0.0)
        return torch.where(torch.cat([near, near]), own, both), multiplier

    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The values at the positions, times the multipliers."""
        position, multiplier = constants
        return _taken(call.input, position, self.bound(call)["dims"]) * multiplier


def _maxima(a: Tensor, given: Arguments) -> tuple[Tensor, Tensor]:
    """Max pooling, and where in a each maximum stands, counted over all dimensions of positions."""
    index = given["dims"] - 1
    result: Any
    if "output_size" in given:
        result = _ADAPTIVE_WITH_INDICES[index](a, given["output_size"], return_indices=True)
    else:
        arguments = {name: given[name] for name in WINDOW_ARGUMENTS}
        result = _WITH_INDICES[index](a, **{**arguments, "stride": arguments["stride"] or None}, return_indices=True)
    return result


def _taken(a: Tensor, positions: Tensor, dims: int) -> Tensor:
    """The values of a at positions that are counted over its last `dims` dimensions."""
    return a.flatten(-dims).gather(-1, positions.flatten(-dims)).view_as(positions)
