"""The autograd Functions that carry an elementwise rule.

There are two, alike but for their form, because PyTorch asks for two. Outside `torch.func`, the form
with `ctx` is twice as fast on small tensors and is the one that `torch.compile` traces; under
`torch.func` and forward-mode differentiation, the form with `setup_context`, `jvp` and a vmap rule is
the one that works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._errors import LinearBackpropError
from .._rules.rule import BackwardRule
from .._torch import transforms_active, unseen_by_modes


def activate(f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
    """f(a, *parameters), with the rule's cotangent for a and the true one for the parameters.

    Args:
        f: Maps a and the parameters to a tensor of a's shape; deterministic, out of place.
        rule: The rule, which gives the cotangent of a.
        a: The pre-activation, any shape.
        parameters: Further tensors f depends on, such as PReLU's weight.
    """
    carrier = _TransformableRule if transforms_active() else _Rule
    return carrier.apply(f, rule, a, *parameters)


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        _keep(ctx, f, rule, a, parameters, of_parameters=any(p.requires_grad for p in parameters))
        return _forward(f, a, parameters)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _backward(ctx, g)


class _TransformableRule(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        return _forward(f, a, parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        f, rule, a, *parameters = inputs
        # In forward mode, nobody says whether a parameter's derivative is wanted.
        _keep(ctx, f, rule, a, tuple(parameters), of_parameters=bool(parameters))
        if ctx.saved:
            ctx.save_for_forward(a, *parameters)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _backward(ctx, g)

    @staticmethod
    def jvp(ctx: Any, _f: None, _rule: None, tangent: Tensor | None, *tangents: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The rule's map from g to the cotangent of a is diagonal, hence its own transpose.
        with unseen_by_modes():
            return _tangent(ctx, tangent, tangents)


def _forward(f: Callable[..., Tensor], a: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    # A `backward_rule` block around this call must not see f: it would put its rule on it again.
    with unseen_by_modes():
        h = f(a, *parameters)
    if h.shape != a.shape:
        raise LinearBackpropError(
            f"a backward rule needs a function that keeps its input's shape; "
            f"{getattr(f, '__name__', f)!r} made {tuple(h.shape)} of {tuple(a.shape)}"
        )
    return h


def _keep(
    ctx: Any,
    f: Callable[..., Tensor],
    rule: BackwardRule,
    a: Tensor,
    parameters: tuple[Tensor, ...],
    of_parameters: bool,
) -> None:
    ctx.rule, ctx.parameter_count = rule, len(parameters)
    ctx.of_parameters = of_parameters
    ctx.saved = rule.uses_pre_activation or of_parameters
    if ctx.saved:
        ctx.f = f  # which may hold tensors of its own
        ctx.save_for_backward(a, *parameters)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    no_parameters = (None,) * ctx.parameter_count
    # Read outside the guard: under activation checkpointing, this runs the model's forward pass again.
    a, *parameters = ctx.saved_tensors if ctx.saved else (None,)
    # `torch.compile` traces the backward pass inside the `backward_rule` block that it sees around the forward pass.
    with unseen_by_modes():
        if not ctx.saved:
            return None, None, ctx.rule.cotangent(g, None, None), *no_parameters
        of_a = ctx.rule.cotangent(g, a, lambda z: ctx.f(z, *parameters))
        if not ctx.of_parameters:
            return None, None, of_a, *no_parameters
        pullback = torch.func.vjp(lambda *p: ctx.f(a, *p), *parameters)[1]
        return None, None, of_a, *pullback(g)


def _tangent(ctx: Any, tangent: Tensor | None, tangents: tuple[Tensor | None, ...]) -> Tensor:
    if not ctx.saved:
        assert tangent is not None
        return ctx.rule.cotangent(tangent, None, None)
    a, *parameters = ctx.saved_tensors
    total = torch.zeros_like(a) if tangent is None else ctx.rule.cotangent(tangent, a, lambda z: ctx.f(z, *parameters))
    for index, moved in enumerate(tangents):
        if moved is not None:
            total = total + torch.func.jvp(_in_argument(ctx.f, a, parameters, index), (parameters[index],), (moved,))[1]
    return total


def _in_argument(
    f: Callable[..., Tensor], a: Tensor, parameters: list[Tensor], index: int
) -> Callable[[Tensor], Tensor]:
    return lambda p: f(a, *parameters[:index], p, *parameters[index + 1 :])
