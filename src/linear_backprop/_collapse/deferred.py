"""Affine layers whose values nobody reads are not computed.

When a model runs on combined samples, its activations emit what they are given, whatever they get. The products
just below them, a third of that run's arithmetic, then serve their backward pass alone, which does not need their
values. So they wait until something else than an activation asks for them, and mostly nothing does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from .._call import Call
from .._torch import Function

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("input", "weight", "bias")),
    **{"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
}


class Deferral:
    """The calls of one run whose values wait.

    Args:
        of_parameters: Whether weights and biases are to get gradients.
    """

    def __init__(self, of_parameters: bool) -> None:
        self.of_parameters = of_parameters
        self._waiting: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}

    def run(self, call: Call) -> Any:
        """The call's result; where its values can wait, they are not set yet."""
        self.settle(call)
        given = call.arguments(_ARGUMENTS)
        if not _can_wait(call.function, given):
            return call()
        x, weight, bias = (_as_autocast(given[name]) for name in ("input", "weight", "bias"))
        if not self.of_parameters:
            weight, bias = (p if p is None else p.detach() for p in (weight, bias))
        unset: Tensor = _Unset.apply(_Affine.of(call.function, given), x, weight, bias)
        self._waiting[id(unset)] = (unset, call)
        return unset

    def settle(self, call: Call) -> None:
        """Compute what waits among the arguments of a call."""
        for leaf in tree_leaves((call.args, call.kwargs)):
            if (waiting := self._waiting.pop(id(leaf), None)) is not None:
                unset, compute = waiting
                with torch.no_grad():
                    unset.copy_(compute())

    def forget(self, tensor: Tensor) -> None:
        """The tensor's values are about to be overwritten."""
        self._waiting.pop(id(tensor), None)


def _can_wait(function: Function, call: dict[str, Any]) -> bool:
    if function is not F.linear and (function not in _CONVOLUTIONS or isinstance(call["padding"], str)):
        return False
    batched = call["input"].dim() == call["weight"].dim() or function is F.linear
    return batched and torch.is_grad_enabled()


def _as_autocast(tensor: Tensor | None) -> Tensor | None:
    """The tensor as autocast hands it to a matrix product."""
    if tensor is None or not torch.is_autocast_enabled(tensor.device.type) or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


class _Affine:
    """F.linear or a convolution, but for its operands.

    Args:
        dims: How many dimensions of positions a convolution has; 0 for F.linear.
        stride: As PyTorch's, one number a dimension, like all that follow.
        padding: On both sides.
        dilation: Between a window's positions.
        groups: As PyTorch's.
    """

    def __init__(self, dims: int, stride: list[int], padding: list[int], dilation: list[int], groups: int) -> None:
        self.dims, self.stride, self.padding, self.dilation, self.groups = dims, stride, padding, dilation, groups

    @classmethod
    def of(cls, function: Function, call: dict[str, Any]) -> _Affine:
        """The call's settings."""
        dims = _CONVOLUTIONS.get(function, 0)
        stride, padding, dilation = (_each(call[name], dims) for name in ("stride", "padding", "dilation"))
        return cls(dims, stride, padding, dilation, call["groups"])

    def shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """The shape of the result."""
        if not self.dims:
            return (*x.shape[:-1], weight.shape[0])
        settings = zip(x.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        positions = ((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in settings)
        return (x.shape[0], weight.shape[0], *positions)

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]
    ) -> tuple[Tensor | None, ...]:
        """The cotangents of x, weight and bias, those that are wanted."""
        if self.dims:
            sizes = None if bias is None else list(bias.shape)
            return torch.ops.aten.convolution_backward(
                *(g, x, weight, sizes, self.stride, self.padding, self.dilation, False, [0] * self.dims, self.groups),
                wanted,
            )
        rows = g.flatten(0, -2)
        return (
            g @ weight if wanted[0] else None,
            rows.T @ x.flatten(0, -2) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


class _Unset(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, affine: _Affine, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.affine, ctx.bias = affine, bias
        ctx.save_for_backward(x, weight)
        return x.new_empty(affine.shape(x, weight))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        return None, *ctx.affine.backward(g, x, weight, ctx.bias, list(ctx.needs_input_grad[1:]))


def _each(value: Any, dims: int) -> list[int]:
    if isinstance(value, int):
        return [value] * dims
    return [*value] if len(value) == dims else [*value] * dims
