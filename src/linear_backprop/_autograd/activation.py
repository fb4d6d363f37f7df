"""The autograd Functions that carry an elementwise rule.

Out of place there are two, alike but for their form, because PyTorch asks for two. Outside `torch.func`, the form
with `ctx` is twice as fast on small tensors and is the one that `torch.compile` traces; under
`torch.func` and forward-mode differentiation, the form with `setup_context`, `jvp` and a vmap rule is
the one that works.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .._errors import LinearBackpropError
from .._rules.rule import BackwardRule, Elementwise, require_elementwise
from .._torch.dynamo import recorded
from .._torch.modes import unseen_by_modes
from .._torch.recording import autocast_of, transforms_active
from .._torch.tensors import unwrapped_if_dead
from .unwritten import unwritten


def activate(f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
    """f(a, *parameters), with the rule's cotangent for a and the true one for the parameters.

    Args:
        f: Maps a and the parameters to a tensor of a's shape; deterministic, out of place.
        rule: The rule, which gives the cotangent of a.
        a: The pre-activation, any shape.
        parameters: Further tensors f depends on, such as PReLU's weight.
    """
    carrier = _TransformableRule if transforms_active() else _Rule
    return carrier.apply(f, rule, recorded(a), *parameters)


def activate_in_place(f: Callable[[Tensor], Tensor], rule: BackwardRule, a: Tensor) -> Tensor:
    """a, overwritten by f, with the rule's cotangent for what it was.

    Args:
        f: Overwrites its argument.
        rule: The rule; it does not use the pre-activation, which is gone.
        a: Of plain code, no leaf that requires grad and no view.
    """
    return _InPlaceRule.apply(f, rule, a)


class _InPlaceRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Callable[[Tensor], Tensor], rule: BackwardRule, a: Tensor) -> Tensor:
        ctx.rule, ctx.dtype = rule, a.dtype
        ctx.mark_dirty(a)
        with unseen_by_modes():
            return f(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with unseen_by_modes():
            return None, None, _cotangent(ctx.rule, ctx.dtype, g, None, None)


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
        # The rule's map from g to the cotangent of a is diagonal: its transpose is it, and its adjoint its conjugate.
        with unseen_by_modes():
            return _tangent(ctx, tangent, tangents)


def _forward(f: Callable[..., Tensor], a: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    # A `backward_rule` block around this call must not see f: it would put its rule on it again.
    with unseen_by_modes():
        h = f(a, *parameters)
    require_elementwise(f, a, h)
    return h


def _keep(
    ctx: Any,
    f: Callable[..., Tensor],
    rule: BackwardRule,
    a: Tensor,
    parameters: tuple[Tensor, ...],
    of_parameters: bool,
) -> None:
    ctx.rule, ctx.dtype, ctx.parameter_count = rule, a.dtype, len(parameters)
    ctx.of_parameters = of_parameters
    ctx.saved = rule.uses_pre_activation or of_parameters
    if ctx.saved:
        ctx.f = f  # which may hold tensors of its own
        ctx.autocast = autocast_of(a.device)
        ctx.save_for_backward(a, *parameters)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    no_parameters = (None,) * ctx.parameter_count
    # Read outside the guard: under activation checkpointing, this runs the model's forward pass again.
    a, *parameters = ctx.saved_tensors if ctx.saved else (None,)
    if a is not None and transforms_active():  # a pullback may be called after the `vjp` that made it
        a, *parameters = (unwrapped_if_dead(tensor) for tensor in (a, *parameters))
    # `torch.compile` traces the backward pass inside the `backward_rule` block that it sees around the forward pass.
    with unseen_by_modes():
        if not ctx.saved:
            return None, None, _cotangent(ctx.rule, ctx.dtype, g, None, None), *no_parameters
        with _as_in_the_forward_pass(ctx, g.device):
            of_a = _cotangent(ctx.rule, ctx.dtype, g, a, lambda z: ctx.f(z, *parameters))
            if not ctx.of_parameters:
                return None, None, of_a, *no_parameters
            pullback = torch.func.vjp(lambda *p: ctx.f(a, *p), *parameters)[1]
            return None, None, of_a, *pullback(g)


def _as_in_the_forward_pass(ctx: Any, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast as it was, for f to be the same function: of PReLU's weight, too, which has another dtype than a."""
    enabled, dtype = ctx.autocast
    return torch.autocast(device.type, dtype=dtype, enabled=enabled) if enabled else nullcontext()


def _cotangent(rule: BackwardRule, dtype: torch.dtype, g: Tensor, a: Tensor | None, f: Elementwise | None) -> Tensor:
    """The rule's cotangent of a, which has a's dtype.

    Raises:
        LinearBackpropError: The rule returns something else, or writes into what it is given.
    """
    of_a: Any = unwritten(rule, "cotangent", (g, a), lambda: rule.cotangent(g, a, f))  # pyright: ignore[reportArgumentType]
    if not isinstance(of_a, Tensor):
        raise LinearBackpropError(
            f"{rule!r} returned {of_a!r} from `cotangent`, which must return the cotangent of a: "
            f"a tensor of g's shape, {tuple(g.shape)}"
        )
    if of_a.shape != g.shape:
        raise LinearBackpropError(
            f"{rule!r} returned a cotangent of shape {tuple(of_a.shape)}; that of a has g's shape, {tuple(g.shape)}"
        )
    if of_a.dtype not in (g.dtype, dtype):
        raise LinearBackpropError(
            f"{rule!r} returned a cotangent of dtype {of_a.dtype}; that of a has {dtype}: have it return `.to(g.dtype)`"
        )
    return of_a


def _tangent(ctx: Any, tangent: Tensor | None, tangents: tuple[Tensor | None, ...]) -> Tensor:
    if not ctx.saved:
        assert tangent is not None
        return _moved(ctx, tangent, None, None)
    a, *parameters = ctx.saved_tensors
    f = lambda z: ctx.f(z, *parameters)  # noqa: E731
    total = torch.zeros_like(a) if tangent is None else _moved(ctx, tangent, a, f)
    for index, moved in enumerate(tangents):
        if moved is not None:
            total = total + torch.func.jvp(_in_argument(ctx.f, a, parameters, index), (parameters[index],), (moved,))[1]
    return total


def _moved(ctx: Any, tangent: Tensor, a: Tensor | None, f: Elementwise | None) -> Tensor:
    return _cotangent(ctx.rule, ctx.dtype, tangent.conj(), a, f).conj()


def _in_argument(
    f: Callable[..., Tensor], a: Tensor, parameters: list[Tensor], index: int
) -> Callable[[Tensor], Tensor]:
    return lambda p: f(a, *parameters[:index], p, *parameters[index + 1 :])
