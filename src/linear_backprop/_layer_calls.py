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
        if not rule.bound(function, args, kwargs).get("inplace", False):
            return _connected(rule, function, args, kwargs, rule.run(function, args, kwargs))
        a, rest, keywords = _split(args, kwargs)
        # The same form on a copy: out of place, it might use other random numbers.
        on_a_copy = rule.run(function, (a.clone(), *rest), keywords)
        return a.copy_(_connected(rule, function, args, kwargs, on_a_copy))


def _is_to_change(function: Function, rule: LayerRule, args: tuple[Any, ...], kwargs: Keywords) -> bool:
    a: object = args[0] if args else kwargs.get("input")
    differentiable = isinstance(a, Tensor) and a.is_floating_point()
    # `torch.export` drops autograd Functions.
    seen = (torch.is_grad_enabled() or transforms_active()) and not torch.compiler.is_exporting()
    return differentiable and seen and rule.applies(function, args, kwargs)


def _connected(
    rule: LayerRule,
    function: Function,
    args: tuple[Any, ...],
    kwargs: Keywords,
    ran: tuple[Any, tuple[Tensor, ...]],
) -> Any:
    result, constants = ran
    if isinstance(result, tuple):  # values and indices
        return (rule.connect(result[0], constants, function, args, kwargs), *result[1:])
    return rule.connect(result, constants, function, args, kwargs)


def _split(args: tuple[Any, ...], kwargs: Keywords) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], dict(kwargs)
    return kwargs["input"], (), {name: value for name, value in kwargs.items() if name != "input"}
