"""Running a model with its activations recorded, and again with activations that emit what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._activations import FORMS, Function
from ._errors import CollapseError


class Recorder(TorchFunctionMode):
    """Runs the model as it is and keeps every activation's output."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, int, Function]] = []

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_activation(result, func):
            self.seen.append((result, result._version, func))
        return result

    def activations(self) -> list[Tensor]:
        """The outputs, which nothing may have overwritten since."""
        for h, version, func in self.seen:
            if h._version != version:
                raise CollapseError(
                    f"the output of {func.__name__} was overwritten in place later in the model's forward, before its "
                    f"aggregate was taken; write that operation out of place"
                )
        return [h for h, _, _ in self.seen]


class Emitter(TorchFunctionMode):
    """Runs the model with activations that emit what they are given, in order, and pass cotangents through.

    Args:
        emitted: What each activation emits.
        slopes: What each multiplies cotangents with, broadcast; None for 1.
        inspect: Told of every activation's position and pre-activation.
    """

    def __init__(
        self,
        emitted: list[Tensor],
        slopes: list[Tensor | None] | None = None,
        inspect: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.emitted = emitted
        self.slopes = slopes or [None] * len(emitted)
        self.outputs: list[Tensor] = []
        self.inspect = inspect

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        a = pre_activation(func, args, kwargs)
        if a is None:
            return func(*args, **(kwargs or {}))
        position = len(self.outputs)
        if self.inspect is not None:
            self.inspect(position, a)
        if position == len(self.emitted) or self.emitted[position].shape != a.shape:
            raise CollapseError(
                f"{func.__name__} ran differently on {len(a)} combined samples than on the batch: the model's forward "
                f"depends on the batch's size or values; make its shapes follow x.shape[0]"
            )
        h: Tensor = _Emit.apply(a, self.emitted[position].to(a.dtype), self.slopes[position])
        self.outputs.append(h)
        return h


class _Emit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, slope: Tensor | None) -> Tensor:
        ctx.slope = slope
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g if ctx.slope is None else g * ctx.slope, None, None


def pre_activation(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Tensor | None:
    """The pre-activation that a call works on; None where it is no activation's."""
    a: object = args[0] if args else (kwargs or {}).get("input")
    return a if is_activation(a, func) else None


def is_activation(value: object, func: Function) -> TypeGuard[Tensor]:
    """Whether a call is an activation's, on a value that has a gradient."""
    return func in FORMS and isinstance(value, Tensor) and value.is_floating_point()
