"""What a non-linearity notes on the batch, and what it does on combinations of samples: it emits what was noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._call import Call
from ..._conversion.run_call import run_activation
from ..._rules.elementwise import MeanLinear
from ..._rules.rule import BackwardRule, LayerRule
from ..._torch.functions import Function


class Noted(NamedTuple):
    """What is noted of one non-linearity, of a batch or of combinations of its samples.

    Attributes:
        value: What it puts out; None if that is not emitted.
        slope: What its cotangents are multiplied with; None for 1.
        own: For each tensor of its own, the derivative of every value by the entry that it depends on.
        constants: Those of a layer's map.
    """

    value: Tensor | None
    slope: Tensor | None
    own: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]

    @property
    def combined(self) -> list[Tensor]:
        """Those of its tensors that have an entry for each sample, and are combined."""
        return [t for t in (self.value, *self.own) if t is not None]

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [t for t in (self.value, self.slope, *self.own, *self.constants) if t is not None]


def note_activation(
    function: Function, rule: BackwardRule, own: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None, *tuple[Tensor, ...]]:
    """Run an activation: its value, its slope, and its derivatives by tensors of its own."""
    noted: list[tuple[Tensor | None, list[Tensor]]] = []

    def carrier(f: Callable[..., Tensor], _rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            slope = rule.slope(a.detach(), lambda z: f(z, *parameters)) if isinstance(rule, MeanLinear) else None
            noted.append((slope, _derivatives_by(own, f, a, parameters)))
            return f(a, *parameters)

    call = Call(function, args, kwargs)
    with torch.enable_grad():  # without, the call would not be looked at
        h: Tensor = run_activation(call.on(call.input.detach()), rule, carrier)
    ((slope, derivatives),) = noted
    return h, slope, *derivatives


def _derivatives_by(
    own: tuple[Tensor, ...], f: Callable[..., Tensor], a: Tensor, parameters: tuple[Tensor, ...]
) -> list[Tensor]:
    return [_derivative(lambda t, each=each: f(a, *(t if p is each else p for p in parameters)), each) for each in own]


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The derivative of every value of f by the entry of t that it depends on, as the backward pass has it.

    At a tie of `clamp` the forward mode's is another. The map from cotangents of f(t) to one of t is linear: it sends
    on the derivatives, and its own transpose sends them back, one to each value.
    """
    h, pull = torch.func.vjp(f, t)  # pyright: ignore[reportAssignmentType]
    _, push = torch.func.vjp(pull, torch.zeros_like(h))  # pyright: ignore[reportAssignmentType]
    return push((torch.ones_like(t),))[0]


def note_layer(
    function: Function, rule: LayerRule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Tensor, ...]]:
    """Run a layer: its value, and the constants of its rule's map."""
    return rule.run(Call(function, args, kwargs))


def map_layer(
    function: Function, rule: LayerRule, constants: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The map of a layer's rule."""
    return rule.linear_map(Call(function, args, kwargs), constants)


def emit(
    a: Tensor,
    h: Tensor,
    slope: Tensor | None = None,
    own: tuple[tuple[Tensor, Tensor], ...] = (),
    by_channel: bool = False,
) -> Tensor:
    """h in the place of f(a); a receives h's cotangent, times the slope.

    Args:
        a: The pre-activation.
        h: What is emitted.
        slope: None for 1.
        own: Each tensor of the activation's own, with the derivative of h by its entries.
        by_channel: Whether those tensors have an entry for each channel, dimension 1, and are not broadcast.
    """
    emitted: Tensor = _Emit.apply(a.expand(h.shape), h, slope)
    for tensor, derivative in own:
        placed = beside(tensor, h, by_channel)
        emitted = emitted + (placed - placed.detach()) * derivative
    return emitted


def beside(tensor: Tensor, h: Tensor, by_channel: bool) -> Tensor:
    """A tensor of an activation's own, to be broadcast against h."""
    return tensor.view(-1, *(1,) * (h.dim() - 2)) if by_channel and tensor.numel() > 1 else tensor


class _Emit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, slope: Tensor | None) -> Tensor:
        ctx.slope = slope
        return h.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g if ctx.slope is None else g * ctx.slope, g, None
