"""Where a graph of autograd's begins at values that lie in memory as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


def begin(values: Tensor) -> tuple[Tensor, GradientEdge]:
    """The same values at the beginning of a graph, and the edge at which a gradient can be asked for.

    Unlike a leaf that requires grad, the edge does not keep the values alive, and they may be overwritten.
    """
    token = values.new_empty(0).requires_grad_()
    begun: Tensor = _Begin.apply(token, values.detach())
    return begun, get_gradient_edge(begun)


def begin_at(values: Tensor) -> GradientEdge:
    """Make a tensor itself the beginning of a graph, forgetting that below it; the edge as for `begin`."""
    _BeginAt.apply(values.new_empty(0).requires_grad_(), values.detach_())
    return get_gradient_edge(values)


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, values: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None


class _BeginAt(_Begin):
    @staticmethod
    def forward(ctx: Any, token: Tensor, values: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        return values
