"""Running one call of a layer under a layer's rule, in whichever form it was written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._activations import Function
from ._autograd import transforms_active, unseen_by_modes
from ._layers import Keywords, LayerRule


def call_layer(function: Function, rule: LayerRule | None, args: tuple[Any, ...], kwargs: Keywords) -> Any:
    """`function(*args, **kwargs)`, its backward pass the rule's; its own where there is no rule."""
    with unseen_by_modes():
        if rule is None or not _is_to_change(function, rule, args, kwargs):
            return function(*args, **kwargs)
        h = rule.linear_map(rule.constants(function, args, kwargs), function, args, kwargs)
        if not rule.bound(function, args, kwargs).get("inplace", False):
            return _with_values(_forward(function, args, kwargs), h)
        a, rest, keywords = _split(args, kwargs)
        # The same form on a copy: out of place, it might use other random numbers.
        values = _forward(function, (a.clone(), *rest), keywords)
        return a.copy_(_with_values(values, h))


def _is_to_change(function: Function, rule: LayerRule, args: tuple[Any, ...], kwargs: Keywords) -> bool:
    a: object = args[0] if args else kwargs.get("input")
    differentiable = isinstance(a, Tensor) and a.is_floating_point()
    # `torch.export` drops autograd Functions.
    seen = (torch.is_grad_enabled() or transforms_active()) and not torch.compiler.is_exporting()
    return differentiable and seen and rule.applies(function, args, kwargs)


def _split(args: tuple[Any, ...], kwargs: Keywords) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], dict(kwargs)
    return kwargs["input"], (), {name: value for name, value in kwargs.items() if name != "input"}


def _forward(function: Function, args: tuple[Any, ...], kwargs: Keywords) -> Any:
    with torch.no_grad():
        return function(*args, **kwargs)


def _with_values(result: Any, h: Tensor) -> Any:
    """The function's own result, whose values are connected as h is."""
    carrier = _TransformableValues if transforms_active() else _Values
    if isinstance(result, tuple):  # values and indices
        return (carrier.apply(result[0], h.to(result[0].dtype)), *result[1:])
    return carrier.apply(result, h.to(result.dtype))


class _Values(torch.autograd.Function):
    """The values of one tensor in the place of another."""

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
