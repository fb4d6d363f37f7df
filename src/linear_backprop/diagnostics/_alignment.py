"""The agreement of a rule's gradient with the true one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._conversion.convert import convert
from .._conversion.patch import plain_copy
from .._conversion.where import Where
from .._errors import LinearBackpropError
from .._rules.rule import BackwardRule


@dataclass(frozen=True)
class Alignment:
    """The cosine between two gradients of the same loss, and the ratio of their lengths.

    Attributes:
        cosine: <u, v> / (|u| |v|), over all parameters together; u is the rule's gradient and v Backprop's.
        by_parameter: The same per parameter, by the parameter's name. NaN where either is zero.
        norm_ratio: |u| / |v|.
        norms: (|u|, |v|) per parameter, by the parameter's name.
    """

    cosine: float
    by_parameter: dict[str, float]
    norm_ratio: float
    norms: dict[str, tuple[float, float]]


def gradient_alignment(
    model: nn.Module,
    rule: BackwardRule,
    inputs: Tensor | tuple[Any, ...],
    loss_fn: Callable[[Any], Tensor] | None = None,
    where: Where = None,
) -> Alignment:
    """Compare a rule's gradient with Backprop's on one batch.

    The model is left as it was: both gradients are taken on copies, with the same random numbers.

    Args:
        model: The model; a conversion that it is under does not count.
        rule: The rule to compare.
        inputs: The model's argument, or a tuple of its arguments.
        loss_fn: From the model's output to a scalar; by default the mean of its squares, halved.
        where: As in `convert`.

    Raises:
        LinearBackpropError: The model has no parameter that requires grad, `loss_fn` is no function, or the loss is
            not a scalar.
        ConversionError: As in `convert`.
    """
    if loss_fn is not None and not callable(loss_fn):
        raise LinearBackpropError(
            f"loss_fn must be a function of the model's output, got a {type(loss_fn).__name__}; with a target y, give "
            f"loss_fn=lambda output: criterion(output, y)"
        )
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    ruled = plain_copy(model)
    convert(ruled, rule, where)
    true = _gradients(plain_copy(model), arguments, loss_fn or _half_mean_square)
    own = _gradients(ruled, arguments, loss_fn or _half_mean_square)
    u, v = _flat(own), _flat(true)
    return Alignment(
        cosine=_cosine(u, v),
        by_parameter={name: _cosine(own[name].double().flatten(), true[name].double().flatten()) for name in own},
        norm_ratio=(u.norm() / v.norm()).item(),
        norms={name: (own[name].double().norm().item(), true[name].double().norm().item()) for name in own},
    )


def _gradients(model: nn.Module, arguments: tuple[Any, ...], loss_fn: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not named:
        raise LinearBackpropError("the model has no parameter that requires grad; there is no gradient to compare")
    devices = {parameter.device for parameter in named.values() if parameter.is_cuda}
    with torch.random.fork_rng(list(devices)), torch.enable_grad():
        loss = loss_fn(model(*arguments))
        if loss.dim() != 0:
            raise LinearBackpropError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}")
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, gradients, strict=True))


def _half_mean_square(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise LinearBackpropError(f"the model returns {type(output).__name__}, not a tensor; give a loss_fn")
    return output.square().mean() / 2


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.double().flatten() for gradient in gradients.values()])


def _cosine(u: Tensor, v: Tensor) -> float:
    return (u @ v / (u.norm() * v.norm())).item()
