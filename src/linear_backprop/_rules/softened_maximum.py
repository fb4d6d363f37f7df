"""Max pooling whose backward pass is a softmax's.

Legend: `a` is what the layer gets, `h` what it makes of it, `g` the cotangent of h.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._call import Call
from .._errors import LinearBackpropError
from .._torch.functions import Function
from .layers import AveragedMaximum, windows_of
from .rule import Arguments, LayerRule, keep_numbers


@dataclass(frozen=True)
class SoftenedMaximum(LayerRule):
    """Max pooling that sends g to all positions of a window, in the shares of softmax(temperature * a) over it.

    Positions outside the input, in max pooling's padding, have no share; a window without any position inside, which
    dilation can make, sends nothing. The shares are constants: differentiated again, it is a linear map of g. Adaptive
    max pooling likewise. Where indices are returned they are the maximum's, as before. Equal values have equal shares,
    infinite ones, too: a window whose maximum is infinite shares g among those that are. A window that holds NaN sends
    NaN to all its positions. Source: Wang et al. (2023), BPA (arXiv 2306.12685), equation 7, with temperature 10.

    The shares differ by sample: `collapse` refuses it.

    Args:
        temperature: What multiplies a: large for the maximum, small for the average of `AveragedMaximum`.

    Raises:
        LinearBackpropError: The temperature is no number, or not above 0.

    Examples:
        >>> x = torch.tensor([[1.0, 1.1, 2.0, 5.0]], requires_grad=True)
        >>> with lb.backward_rule(layers=[lb.SoftenedMaximum(temperature=10.0)]):
        ...     F.max_pool1d(x, 2).sum().backward()
        >>> x.grad
        tensor([[2.6894e-01, 7.3106e-01, 9.3576e-14, 1.0000e+00]])
    """

    formula = "g * softmax(temperature * a) over each window"
    source = "BPA; Wang et al. (2023)"
    modules = AveragedMaximum.modules
    arguments: ClassVar[dict[Function, Arguments]] = AveragedMaximum.arguments

    temperature: float = 10.0

    def __post_init__(self) -> None:
        keep_numbers(self, "temperature")
        if not self.temperature > 0:
            raise LinearBackpropError(f"SoftenedMaximum's temperature must be above 0, got {self.temperature}")

    def constants(self, call: Call) -> tuple[Tensor, ...]:
        """The shares, position by position of the windows: shape (positions of a window, *shape of h)."""
        with torch.no_grad():
            a: Tensor = call.input.detach()
            windows = [(value, inside.expand_as(value)) for value, inside in _of_windows(a, self.bound(call))]
            values, inside = (torch.stack(each) for each in zip(*windows, strict=True))
            values = torch.where(inside, values.to(torch.promote_types(a.dtype, torch.float32)), -torch.inf)
            largest = values.amax(0)
            # Infinite ones, whose difference is NaN, are equal.
            powers = torch.where(values == largest, 1.0, (self.temperature * (values - largest)).exp())
            shares = torch.where(inside, powers, 0.0)
            total = shares.sum(0)
            return ((shares / torch.where(total == 0, 1.0, total)).to(a.dtype),)

    def linear_map(self, call: Call, constants: tuple[Tensor, ...]) -> Tensor:
        """The mean over each window, weighted by the shares."""
        (shares,) = constants
        windows = _of_windows(call.input, self.bound(call))
        # What lies outside is some other value, to be left out even where that is infinite.
        parts = [
            torch.where(inside, share * value, 0.0) for share, (value, inside) in zip(shares, windows, strict=True)
        ]
        return torch.stack(parts).sum(0)


def _of_windows(a: Tensor, given: Arguments) -> Iterator[tuple[Tensor, Tensor]]:
    """For each position of a window: the values there of all windows, and which of them lie inside the input."""
    dims, windows = given["dims"], windows_of(given)
    tables = [windows.positions(a.shape[dim - dims], dim) for dim in range(dims)]
    for places in itertools.product(*(range(table.shape[1]) for table in tables)):
        value, inside = a, torch.ones((), dtype=torch.bool, device=a.device)
        for dim, (table, place) in enumerate(zip(tables, places, strict=True)):
            positions, length = table[:, place].to(a.device), a.shape[dim - dims]
            value = value.index_select(dim - dims, positions.clamp(0, length - 1))
            along = (positions >= 0) & (positions < length)
            inside = inside.unsqueeze(-1) & along
        yield value, inside
