"""The autograd Functions that give one map's values another map's backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._autograd import transforms_active, unseen_by_modes
from ._averages import AdaptiveWindows, Windows


def with_values(values: Tensor, h: Tensor) -> Tensor:
    """`values`, connected as h is: what they receive goes to h.

    Args:
        values: Shape and dtype are kept.
        h: The shape of `values`.
    """
    carrier = _TransformableValues if transforms_active() else _Values
    return carrier.apply(values, h.to(values.dtype))


def with_spread(values: Tensor, a: Tensor, windows: Windows | AdaptiveWindows) -> Tensor:
    """`with_values(values, windows.average(a))` without taking the average; not for compiled or transformed code."""
    return _Spread.apply(values, a, windows)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, h: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, g


class _TransformableValues(torch.autograd.Function):
    """The same, in the form that `torch.func` and forward-mode differentiation need; see `_autograd.py`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, h: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, g

    @staticmethod
    def jvp(ctx: Any, _values: Tensor | None, tangent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tangent


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, a: Tensor, windows: Windows | AdaptiveWindows) -> Tensor:
        ctx.windows = windows
        ctx.layout = torch.empty_like(a, device="meta")
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with unseen_by_modes():
            like = torch.empty_like(ctx.layout, device=g.device)
            return None, ctx.windows.spread(g.to(like.dtype), like), None
