"""The autograd Functions that carry a layer's rule: one map's values with another map's backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._call import Call
from .._rules.rule import LayerRule
from .._torch.dynamo import recorded
from .._torch.modes import unseen_by_modes
from .._torch.recording import in_plain_code, transforms_active
from .unwritten import unwritten


def connect(call: Call, rule: LayerRule, values: Tensor, constants: tuple[Tensor, ...]) -> Tensor:
    """A call's values with the backward pass of the rule's map.

    Args:
        call: A call that the rule governs.
        rule: The rule.
        values: The call's own, without a graph.
        constants: Those of the map.
    """
    transpose = rule.transpose(call) if in_plain_code() else None
    if transpose is not None:
        spread = lambda g, like: unwritten(rule, "transpose", (g,), lambda: transpose(g, like))  # noqa: E731
        return _Transposed.apply(values, call.input, spread)
    return with_values(values, unwritten(rule, "linear_map", (call.input,), lambda: rule.linear_map(call, constants)))


def with_values(values: Tensor, h: Tensor) -> Tensor:
    """`values`, connected as h is: what they receive goes to h.

    Args:
        values: Shape and dtype are kept.
        h: The shape of `values`.
    """
    carrier = _TransformableValues if transforms_active() else _Values
    return carrier.apply(values, recorded(h.to(values.dtype)))


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, h: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, g


class _TransformableValues(torch.autograd.Function):
    """The same, in the form that `torch.func` and forward-mode differentiation need; see `activation.py`."""

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


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, a: Tensor, transpose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.transpose = transpose
        ctx.layout = torch.empty_like(a, device="meta")
        return values.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with unseen_by_modes():
            like = torch.empty_like(ctx.layout, device=g.device)
            return None, ctx.transpose(g.to(like.dtype), like), None
