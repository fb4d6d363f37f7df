"""The gradients of one loss, to compare with others of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import LinearBackpropError

LossFn = Callable[[Any], Tensor]


def gradients_of(model: nn.Module, inputs: Tensor | tuple[Any, ...], loss_fn: LossFn | None) -> dict[str, Tensor]:
    """The gradient of every parameter that requires grad, zero where it has none; random numbers are given back.

    Args:
        model: The model.
        inputs: Its argument, or a tuple of its arguments.
        loss_fn: From the model's output to a scalar; by default the mean of its squares, halved.

    Raises:
        LinearBackpropError: No parameter requires grad, `loss_fn` is no function, or the loss is not a scalar.
    """
    if loss_fn is not None and not callable(loss_fn):
        raise LinearBackpropError(
            f"loss_fn must be a function of the model's output, got a {type(loss_fn).__name__}; with a target y, give "
            f"loss_fn=lambda output: criterion(output, y)"
        )
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not named:
        raise LinearBackpropError("the model has no parameter that requires grad; there is no gradient to compare")
    devices = {parameter.device for parameter in named.values() if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)), torch.enable_grad():
        loss = (loss_fn or _half_mean_square)(model(*(inputs if isinstance(inputs, tuple) else (inputs,))))
        if loss.dim() != 0:
            raise LinearBackpropError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}")
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, gradients, strict=True))


def _half_mean_square(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise LinearBackpropError(f"the model returns {type(output).__name__}, not a tensor; give a loss_fn")
    return output.square().mean() / 2
