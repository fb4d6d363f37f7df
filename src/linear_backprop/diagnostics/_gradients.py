"""The gradients of one loss, to compare with others of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._conversion.block import RuleMode
from .._errors import LinearBackpropError, described
from .._torch.modes import without
from ._inputs import arguments_of

LossFn = Callable[[Any], Tensor]


def gradients_of(model: nn.Module, inputs: Tensor | tuple[Any, ...], loss_fn: LossFn | None) -> dict[str, Tensor]:
    """The gradient of every parameter that requires grad, zero where it has none; random numbers are given back.

    The blocks around do not count: what is compared is what the model itself follows.

    Args:
        model: The model.
        inputs: Its argument, or a tuple of its arguments.
        loss_fn: From the model's output to a scalar; by default the mean of its squares, halved.

    Raises:
        LinearBackpropError: No parameter requires grad, the batch is empty, `loss_fn` is no function of the output
            alone, or the loss is not a real scalar that depends on a parameter.
    """
    arguments = arguments_of(inputs)
    _require_loss_of_output(loss_fn)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not named:
        raise LinearBackpropError("the model has no parameter that requires grad; there is no gradient to compare")
    devices = {parameter.device for parameter in named.values() if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)), torch.enable_grad(), without(RuleMode):
        loss = (loss_fn or _half_mean_square)(model(*arguments))
        _require_scalar(loss)
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, gradients, strict=True))


def _require_loss_of_output(loss_fn: object) -> None:
    """Refuse a target, or a loss that wants one, in place of a function of the output."""
    remedy = "with a target y, give loss_fn=lambda output: criterion(output, y)"
    if loss_fn is None:
        return
    if not callable(loss_fn):
        raise LinearBackpropError(
            f"loss_fn must be a function of the model's output, got a {type(loss_fn).__name__}; {remedy}"
        )
    try:
        inspect.signature(loss_fn.forward if isinstance(loss_fn, nn.Module) else loss_fn).bind("output")
    except TypeError as error:
        raise LinearBackpropError(
            f"loss_fn is called with the model's output alone, which {described(loss_fn)} does not take ({error}); "
            f"{remedy}"
        ) from error
    except ValueError:  # a builtin that does not say what it takes
        pass


def _require_scalar(loss: object) -> None:
    if not isinstance(loss, Tensor):
        raise LinearBackpropError(f"loss_fn must return a scalar tensor, got {described(loss)}")
    if loss.dim() != 0:
        raise LinearBackpropError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}")
    if not loss.is_floating_point():
        raise LinearBackpropError(f"loss_fn must return a real number, got {loss.dtype}")
    if not loss.requires_grad:
        raise LinearBackpropError("the loss depends on no parameter: it was computed under no_grad() or from detach()")


def _half_mean_square(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise LinearBackpropError(f"the model returns {type(output).__name__}, not a tensor; give a loss_fn")
    return output.square().mean() / 2
